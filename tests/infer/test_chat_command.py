"""`tpinfer chat`: turns, what is kept between them and in files, and a person at a terminal."""

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from contextlib import contextmanager

import babble
from support import BUILD, KIT, checkpoint, convert, main, scratch, test, wait_for
from robust import SLOW, has_ended

TPINFER = BUILD / "tpinfer"
TINY_TOKENIZER = KIT / "tokenizer/tiny"
WORDS = [" the", " test", " for", " return", " with", " not", " file", " name", " raise", " class", " value"]
PLAIN = """begin "<|startoftext|>"
system "S: {content}\\n"
user "U: {content}\\n"
assistant "A:{content}\\n"
reply "A:"
stop "<|return|>"
"""
ENVIRONMENT = {key: value for key, value in os.environ.items()
               if key not in ("HOME", "LC_ALL", "NO_COLOR", "TERM", "XDG_STATE_HOME")}


# ---------------------------------------------------------------- running

def tpinfer(*arguments, text="", **how):
    return subprocess.run([TPINFER, *map(str, arguments)], input=text.encode() if isinstance(text, str) else text,
                          capture_output=True, timeout=30 * SLOW, check=False, **how)


def chat(view, *options, lines, status=0, says=()):
    """A chat through pipes; what it printed. `says`: what standard error has, and nothing without it."""
    done = tpinfer("chat", view, *options, text="".join(f"{line}\n" for line in lines))
    stderr = done.stderr.decode()
    assert done.returncode == status, done
    for part in says:
        assert part in stderr, f"expected {part!r} in: {stderr}"
    assert says or not stderr, stderr
    return done.stdout.decode()


def refused(*arguments, status=1, says=(), text=""):
    done = tpinfer(*arguments, text=text)
    stderr = done.stderr.decode()
    assert done.returncode == status and stderr.count("\n") == 1 and done.stdout == b"", done
    for part in says:
        assert part in stderr, f"expected {part!r} in: {stderr}"


def note_of(path):
    """What a session's file says of the conversation; numpy reads the rest in test_session.py."""
    data = path.read_bytes()
    length, = struct.unpack_from("<Q", data, 40)
    return json.loads(data[-16 - length:-16])


def contents(path, role="assistant"):
    return [message["content"] for message in note_of(path)["messages"] if message["role"] == role]


LARGER = "small" if SLOW == 1 else "tiny"  # with sanitizers a hundred seconds are saved


def packed(name, folder):
    return convert(checkpoint(name), folder / name, "--precision", "source", "--mxfp4", "packed")


def template(folder):
    path = folder / "plain.template"
    path.write_text(PLAIN)
    return path


def prompt_of(tokenizer, messages, *options):
    """Ids and text of a conversation's prompt, as `tokenize` writes it."""
    done = tpinfer("tokenize", tokenizer, "--chat", "--json", *options, text=json.dumps(messages))
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def answer_of(view, prompt, *options):
    """What `tpinfer run` says to the prompt as it stands, with no session to go on with."""
    done = tpinfer("run", view, "-q", *RAW, *options, text=prompt)
    assert done.returncode == 0, done
    return done.stdout.decode()


RAW = ["--raw"] if b"--raw" in tpinfer("run", "--help").stdout else []


# ---------------------------------------------------------------- turns

@test
def answers_are_those_that_run_gives():
    """Turn by turn, far beyond the windows: what the session keeps changes nothing."""
    with scratch() as folder:
        for name in (LARGER, "mistral"):
            view, plain, file = packed(name, folder), template(folder), folder / "session"
            how = ("--temp", 0.8, "--seed", 3, "-n", 80, "-t", 1)
            said = ["Tell me a story", "Go on", "And then?", "The end."]
            out = chat(view, "--template", plain, "--system", "Be brief.", *how, lines=[*said, f"/save {file}"],
                       says=["saved: 8 messages", "-n"])
            messages = note_of(file)["messages"]
            assert [message["content"] for message in messages[::2]] == said
            assert out == "".join(text + ("" if text.endswith("\n") else "\n") for text in contents(file))
            tokens = 0
            for i in range(1, len(messages), 2):
                conversation = [{"role": "system", "content": "Be brief."}, *messages[:i]]
                prompt = prompt_of(view, conversation, "--template", plain)
                tokens = len(prompt["tokens"])
                expected = answer_of(view, prompt["text"], *how)
                assert messages[i]["content"].rstrip("\n") == expected.rstrip("\n"), f"{name}: turn {i // 2 + 1}"
            assert tokens > 300, tokens


BABBLE = ("--temp", 1, "--top-p", 1, "--date", "2025-06-28")
SEED = 16  # with it, the first two turns are a thought and a final message


def babbler(folder, **how):
    return babble.write(folder / "babbler", babble.harmony(WORDS, **{"ends": (0.1, 0.1), **how}))


def statistics(out):
    """(prompt, kept, written) of each "last turn" that /stats printed."""
    return [tuple(map(int, found)) for found in
            re.findall(r"last turn: prompt of (\d+) tokens, (\d+) of them kept, .*?; (\d+) written", out)]


@test
def harmony_is_spoken_over_turns():
    with scratch() as folder:
        view, file = babbler(folder), folder / "session"
        said = ["one", "two", "three"]
        lines = [line for text in said for line in (text, "/stats")]
        out = chat(view, *BABBLE, "--seed", SEED, "--effort", "high", "--reasoning", "show",
                   lines=[*lines, f"/save {file}"], says=["saved"])
        note = note_of(file)
        assert (note["reasoning_effort"], note["date"]) == ("high", "2025-06-28")
        turns, messages = [], note["messages"]
        for message in messages:
            turns.append([]) if message["role"] == "user" else turns[-1].append(message)
        assert len(turns) == 3
        for turn in turns[:2]:
            assert [message["channel"] for message in turn] == ["analysis", "final"], turn
        shown = re.sub(r"(?m)^(loaded in|last turn:|\d turns:).*\n", "", out)
        assert shown == "".join(f"{message['content']}\n" for turn in turns for message in turn)
        hidden = chat(view, *BABBLE, "--seed", SEED, "--effort", "high", lines=said)
        assert hidden == "".join(f"{message['content']}\n" for turn in turns for message in turn
                                 if message["channel"] == "final")

        # The same prompt to `run`: everything that was written, without the control tokens.
        prompts, at = [], 0
        for turn in turns:
            at += 1
            prompt = prompt_of(view, [{"role": "system"}, *messages[:at]], "--effort", "high", "--date", "2025-06-28")
            prompts.append(prompt["tokens"])
            text = answer_of(view, prompt["text"], *BABBLE[:4], "--seed", SEED, "-n", 400)
            assert text.rstrip("\n") == "".join(message["channel"] + message["content"] for message in turn)
            at += len(turn)

        # What is kept: the first thoughts are dropped when there is a final message, later ones stay.
        kept = [(prompt, kept) for prompt, kept, _ in statistics(out)]
        expected = [0, len(prompts[0]) + 1]  # <|channel|>, and then "final" instead of "analysis"
        thought = len(tokens_of(f"analysis{turns[1][0]['content']}"))
        expected.append(len(prompts[1]) + 1 + thought + 1 + 2)  # <|channel|>, <|message|>, <|end|><|start|>
        assert kept == list(zip(map(len, prompts), expected, strict=True)), (kept, expected)


def tokens_of(text):
    return tpinfer("tokenize", TINY_TOKENIZER, text=text).stdout.split()


@test
def settings_hold_from_the_next_message_on():
    with scratch() as folder:
        view, file = babbler(folder), folder / "session"
        out = chat(view, *BABBLE, "--seed", SEED, lines=[
            "/system", "/effort", "/system You are\\", "a sailor.", "/effort low", "/system", "/effort", "Ahoy",
            f"/save {file}", '/system ""', "/system", "/reset", "/stats", f"/load {file}", "/system", "/effort"],
            says=["saved: 2 messages", "loaded: 2 messages"])
        assert re.findall(r"(?m)^(?:system|effort): .*", out) == [
            "system: none", "effort: medium", "system: You are", "effort: low", "system: none", "system: You are",
            "effort: low"], out
        note = note_of(file)
        assert (note["system"], note["reasoning_effort"]) == ("You are\na sailor.", "low")
        # It reaches the prompt as harmony has it.
        messages = [{"role": "system"}, {"role": "developer", "instructions": "You are\na sailor."},
                    {"role": "user", "content": "Ahoy"}]
        prompt = prompt_of(view, messages, "--effort", "low", "--date", "2025-06-28")
        text = answer_of(view, prompt["text"], *BABBLE[:4], "--seed", SEED, "-n", 400)
        assert text.rstrip("\n") == "".join(m["channel"] + m["content"] for m in note["messages"][1:])


@test
def messages_of_many_lines():
    with scratch() as folder:
        view, file = babbler(folder), folder / "session"
        chat(view, *BABBLE, lines=["a\\", "b\\", "c", "", "   ", '"""one', "", 'two"""', '"""', "/help", '"""',
                                   '"""x"""', " /help", f"/save {file}", "cut\\"], says=["saved"])
        assert contents(file, "user") == ["a\nb\nc", "one\n\ntwo", "/help", "x", " /help"]
        out = tpinfer("chat", view, *BABBLE, "--reasoning", "show", text="no line end")
        assert out.returncode == 0 and out.stdout.count(b"\n") >= 1, out


# ---------------------------------------------------------------- files

@test
def what_was_saved_goes_on_with_the_same_bits():
    """As if nobody had left: from another process, with another context, beyond the windows."""
    with scratch() as folder:
        view, plain = packed(LARGER, folder), template(folder)
        how = ("--template", plain, "--temp", 1, "--seed", 5, "-n", 80, "-t", 1)
        first, second = ["Hello", "How are you?"], ["And now?", "Good bye"]
        for kind in ("f32", "bf16"):
            for file in (folder / "a", folder / "b", folder / "c"):
                file.unlink(missing_ok=True)
            stayed = chat(view, *how, "--kv-type", kind, lines=[*first, f"/save {folder}/a", *second, f"/save {folder}/b"],
                          says=["saved"])
            left = chat(view, *how, "--kv-type", kind, "-c", 3000,
                        lines=[f"/load {folder}/a", *second, "/stats", f"/save {folder}/c"], says=["loaded: 4 messages"])
            answers = re.sub(r"(?m)^(loaded in|last turn:|\d turns:).*\n", "", left)
            assert stayed.endswith(answers) and len(answers) > 100
            assert note_of(folder / "b") == note_of(folder / "c")
            assert (folder / "b").read_bytes() == (folder / "c").read_bytes()
            (_, kept, _), = statistics(left)
            assert kept > 100, "the file's keys and values were not used"


@test
def files_that_are_no_use_are_refused():
    with scratch() as folder:
        view, file = babbler(folder), folder / "session"
        chat(view, *BABBLE, "--seed", SEED, lines=["one", f"/save {file}"], says=["saved"])
        data = file.read_bytes()
        for name, content, says in (
                ("cut", data[:-1], "not as long"), ("longer", data + b"x", "not as long"),
                ("flipped", data[:-30] + bytes([data[-30] ^ 1]) + data[-29:], "checksum differs"),
                ("header", data[:33] + b"\1" + data[34:], "header's checksum"), ("empty", b"", "expected a session"),
                ("text", b"Hello\n" * 100, "expected a session")):
            (folder / name).write_bytes(content)
            # The conversation is as it was before.
            lines = ["one", f"/load {folder / name}", "two", f"/save {folder}/after"]
            chat(view, *BABBLE, "--seed", SEED, lines=lines, status=1, says=[f"{folder / name}: ", says])
            chat(view, *BABBLE, "--seed", SEED, lines=["one", "two", f"/save {folder}/expected"], says=["saved"])
            assert (folder / "after").read_bytes() == (folder / "expected").read_bytes(), name
        chat(packed("tiny", folder), lines=[f"/load {file}"], status=1, says=["another model"])
        chat(view, "-c", 50, lines=[f"/load {file}"], status=1, says=["room for 50", "--context"])
        chat(view, "--kv-type", "bf16", lines=[f"/load {file}"], status=1, says=["--kv-type f32"])
        chat(view, lines=[f"/load {folder}/none"], status=1, says=["No such file"])
        chat(view, lines=[f"/save {folder}/none/x"], status=1, says=["cannot write"])
        chat(view, lines=["/save", "/load"], status=1, says=["/save: expected a file", "/load: expected a file"])
        # Saved by something else: keys and values are right, the note is not a chat's.
        for note in (b"", b"[]", b'{"messages": 5}', b'{"messages": [{"role": "x"}]}', b'{"messages": [], "system": 1}',
                     b'{"messages": [], "reasoning_effort": "huge"}', b"\xff"):
            (folder / "note").write_bytes(with_note(data, note))
            chat(view, lines=[f"/load {folder}/note"], status=1, says=[f"{folder}/note: "])
        (folder / "note").write_bytes(with_note(data, b'{"messages": []}'))
        chat(view, lines=[f"/load {folder}/note"], says=["loaded: 0 messages"])


def with_note(data, note):
    """The file with another note, sealed by the program that tests sessions."""
    length, = struct.unpack_from("<Q", data, 40)
    changed = bytearray(data[:-16 - length] + note + bytes(16))
    struct.pack_into("<Q", changed, 40, len(note))
    done = subprocess.run([BUILD / "tests/infer/session-file", "seal"], input=bytes(changed), capture_output=True, check=True)
    assert len(done.stdout) == len(changed)
    return done.stdout


# ---------------------------------------------------------------- mistakes

@test
def mistakes_are_said_and_the_chat_goes_on():
    with scratch() as folder:
        view, file = babbler(folder), folder / "session"
        out = chat(view, *BABBLE, "--seed", SEED, lines=["/nope", "/", "/reset now", "/effort huge", "one", f"/save {file}"],
                   status=1, says=["unknown command /nope; /help", "unknown command /;", "/reset: expected nothing",
                                   "/effort: ", "low", "saved"])
        assert out.rstrip("\n") == contents(file)[-1]
        done = tpinfer("chat", view, *BABBLE, "--seed", SEED, text=b"bad \xff\none\n")
        assert done.returncode == 1 and b"UTF-8" in done.stderr, done
        assert done.stdout.decode() == out
        refused("chat", view, "--reasoning", "loud", status=2, says=["--reasoning", "show"])
        refused("chat", view, "-n", 0, status=2, says=["--predict"])
        refused("chat", status=2, says=["expected one VIEW"])
        refused("chat", folder / "none", says=["none"])
        refused("chat", view, "--template", folder / "none", says=["none"])
        llama = packed("llama", folder)
        refused("chat", llama, says=["--template"])
        refused("chat", llama, "--template", template(folder), "--effort", "low", says=["reasoning effort", "harmony"])
        chat(llama, "--template", template(folder), lines=["/effort low"], status=1, says=["reasoning effort"])
        refused("chat", llama, "--template", "llama3", says=["stop", "another template"])
        done = subprocess.run(f"echo one | {TPINFER} chat {view} --reasoning show > /dev/full", shell=True,
                              capture_output=True, check=False)
        assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"cannot write" in done.stderr, done


@test
def a_full_context_is_said_and_what_to_do():
    with scratch() as folder:
        view, plain, file = packed("tiny", folder), template(folder), folder / "session"
        long = "word " * 200
        out = chat(view, "--template", plain, "--temp", 0, "-c", 120, "-n", 20,
                   lines=["Hi", long, f"/save {file}", "/reset", "Hi"], status=1,
                   says=["the context has room for 120", "/reset", "--context", "saved: 2 messages"])
        first, again = out[:len(out) // 2], out[len(out) // 2:]
        assert first == again and contents(file)[0].rstrip("\n") == first.rstrip("\n")
        chat(view, "--template", plain, "--temp", 0, "-c", 60, lines=["Hi"], says=["the context of 60 tokens is full", "/reset"])
        # A larger context takes it up.
        chat(view, "--template", plain, "-c", 60, lines=["Hi", f"/save {file}"], says=["full"])
        chat(view, "--template", plain, "-c", 200, "-n", 5, lines=[f"/load {file}", "More"], says=["loaded: 2 messages"])


# ---------------------------------------------------------------- a person

class Terminal:
    """A chat on a terminal of its own."""

    def __init__(self, *arguments, env=None, command=None):
        env = {**ENVIRONMENT, "TERM": "xterm", **(env or {})}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            words = [str(word) for word in command or [TPINFER, "chat", *arguments]]
            os.execvpe(words[0], words, env)
        self.shown, self.status = "", None

    def send(self, text):
        os.write(self.fd, text.encode())

    def type(self, text, expected):
        """Types, and waits for something in what is shown from then on."""
        self.shown = ""
        self.send(text)
        return self.expect(expected)

    def expect(self, expected):
        end = time.monotonic() + 30 * SLOW
        while not (found := re.search(expected, self.shown)):
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"expected {expected!r}, found {self.shown!r}"
            try:
                self.shown += os.read(self.fd, 4096).decode(errors="replace")
            except OSError:  # it has ended
                raise AssertionError(f"expected {expected!r}, found {self.shown!r} and the end") from None
        return found

    def end(self):
        """What is shown until the program has ended; its status."""
        end = time.monotonic() + 30 * SLOW
        try:
            while True:
                ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
                assert ready, f"expected the end, found {self.shown!r}"
                self.shown += os.read(self.fd, 4096).decode(errors="replace")
        except OSError:
            pass
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


def modes(fd):
    """Local modes: whether the terminal edits lines and echoes."""
    return termios.tcgetattr(fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


PROMPT = r"\r?> (\x1b\[K)?$"


@contextmanager
def talking(view, *options, env=None):
    with Terminal(view, *options, env=env) as terminal:
        terminal.expect(r"/help lists(?s:.*)" + PROMPT)
        yield terminal


def leave(terminal, text="\x04", status=0):
    terminal.send(text)
    assert terminal.end() == status, terminal.shown


@test
def answers_appear_at_the_terminal():
    with scratch() as folder:
        view, file = babbler(folder), folder / "session"
        how = (*BABBLE, "--seed", SEED)
        chat(view, *how, lines=["one", f"/save {file}"], says=["saved"])
        thought, final = contents(file)
        for env, options, expected in (
                ({}, (), f"\x1b[2m{thought}\x1b[0m\r\n{final}\r\n"),
                ({}, ("--reasoning", "hide"), f"one\r\n{final}\r\n"),
                ({"NO_COLOR": "1"}, (), f"one\r\n{thought}\r\n{final}\r\n"),
                ({"NO_COLOR": ""}, (), f"\x1b[2m{thought}\x1b[0m\r\n{final}\r\n"),
                ({"TERM": "dumb"}, (), f"one\r\n{thought}\r\n{final}\r\n")):
            with talking(view, *how, *options, env=env) as terminal:
                terminal.type("one\r" if env.get("TERM") != "dumb" else "one\n", re.escape(expected))
                terminal.expect(PROMPT)
                if env.get("TERM") == "dumb":
                    assert "\x1b" not in terminal.shown
                leave(terminal)


@test
def a_model_cannot_drive_the_terminal():
    """Nor a loaded conversation, nor a tool's name; a program gets what was written."""
    evil = ["ě", "[", "3", "1", "m", "\x07", "ĵ", "Ã", "Ā"]
    evil = [name for name in ("ě", "[", "Ĉ", "č", "Ā", "ć", "ġ") if name in babble.VOCABULARY]
    assert "ě" in evil and "č" in evil
    with scratch() as folder:
        words = [*evil, " the"]
        view = babble.write(folder / "evil", babble.harmony(words, (0, 0.01), analysis=0))
        how = (*BABBLE, "--seed", 1, "-n", 300)
        raw = chat(view, *how, lines=["one"])
        assert "\x1b[" in raw and "\r" in raw and "\0" in raw
        with talking(view, *how) as terminal:
            terminal.type("one\r", r"the(?s:.*)> (\x1b\[K)?$")
            answer = terminal.shown.split("\r\n", 1)[1]
            answer = answer[:answer.rindex("\r\n")]
            assert not re.search(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f]", answer.replace("\r\n", "\n")), repr(answer)
            assert "\r" not in answer.replace("\r\n", "\n") and "\ufffd[" in answer
            terminal.type("/system \x16\x1b[31mred\r", PROMPT)
            terminal.type("/system\r", r"system: \ufffd\[31mred\r\n(?s:.*)" + PROMPT)
            leave(terminal)


@test
def control_c_stops_the_answer_and_not_the_program():
    with scratch() as folder:
        view, file = babbler(folder, ends=(0, 0), analysis=0), folder / "session"
        how = (*BABBLE, "--seed", 1, "-c", 100_000)
        with talking(view, *how) as terminal:
            terminal.type("one\r", "( [a-z]+){50}")
            terminal.type("\x03", PROMPT)
            terminal.type("two\r", "( [a-z]+){50}")
            terminal.type("\x03", PROMPT)
            terminal.type("/stats\r", "2 turns")
            terminal.expect(PROMPT)
            terminal.type(f"/save {file}\r", "saved: 4 messages")
            terminal.expect(PROMPT)
            leave(terminal, "/quit\r")
        messages = note_of(file)["messages"]
        assert [m["content"] for m in messages[::2]] == ["one", "two"]
        # It is the beginning of what would have come, also after a turn that was cut.
        for i in (1, 3):
            prompt = prompt_of(view, [{"role": "system"}, *messages[:i]], "--date", "2025-06-28")
            words = messages[i]["content"].split()
            assert len(words) >= 50
            expected = answer_of(view, prompt["text"], *BABBLE[:4], "--seed", 1, "-n", len(words) + 8)
            assert expected.removeprefix("final").split()[:len(words)] == words


@test
def control_c_stops_the_reading_of_a_prompt():
    """It is as if the message had not been sent; what was read of it is kept for the next."""
    with scratch() as folder:
        view, plain = packed("small", folder), template(folder)
        long = folder / "long"
        chat(view, "--template", plain, "-n", 1, lines=["Hi", f"/save {long}"], says=["saved"])
        note = note_of(long)
        note["messages"][0]["content"] = "word " * 20_000
        long.write_bytes(with_note(long.read_bytes(), json.dumps(note).encode()))
        with talking(view, "--template", plain, "--temp", 0, "-n", 3, "-c", 50_000) as terminal:
            terminal.type(f"/load {long}\r", "loaded(?s:.*)" + PROMPT)
            terminal.send("stop\r")
            wait_for(lambda: modes(terminal.fd) & termios.ICANON, "the line to be taken")
            terminal.expect("stop\r\n")
            terminal.type("\x03", PROMPT)
            assert "cut" not in terminal.shown
            terminal.type("/stats\r", r"context: (\d+) of")
            tokens = int(re.search(r"context: (\d+) of", terminal.shown)[1])
            assert 0 < tokens < 20_000, tokens
            terminal.expect(PROMPT)
            terminal.type("/reset\r", PROMPT)
            terminal.type("Hi\r", r"-n\](?s:.*)" + PROMPT)
            leave(terminal)


@test
def control_c_at_the_prompt_clears_the_line():
    with scratch() as folder:
        view, file = babbler(folder), folder / "session"
        for env, enter in (({}, "\r"), ({"TERM": "dumb"}, "\n")):
            with talking(view, *BABBLE, "--seed", SEED, env=env) as terminal:
                terminal.type("not this", "not this")
                terminal.type("\x03", PROMPT)
                terminal.type('"""nor' + enter, r"\. (\x1b\[K)?$")
                terminal.type("\x03", PROMPT)
                terminal.type("this" + enter, r"(?s:\n.*)" + PROMPT)
                terminal.type(f"/save {file}" + enter, "saved")
                terminal.expect(PROMPT)
                leave(terminal)
            assert contents(file, "user") == ["this"]


@test
def signals_end_it_in_order():
    """The terminal's modes are as they were; whoever started it sees the signal."""
    with scratch() as folder:
        view = babbler(folder, ends=(0, 0))
        for number in (signal.SIGTERM, signal.SIGHUP):
            for busy in (False, True):
                with talking(view, *BABBLE, "-c", 100_000) as terminal:
                    raw = modes(terminal.fd)
                    assert not raw & termios.ICANON
                    if busy:
                        terminal.type("one\r", "( [a-z]+){20}")
                    os.kill(terminal.pid, number)
                    assert terminal.end() == -number, terminal.shown
                    assert modes(terminal.fd) == termios.ICANON | termios.ECHO | termios.ISIG
        process = subprocess.Popen([TPINFER, "chat", view], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.send_signal(signal.SIGINT)  # nobody is at a terminal: as any program
        assert process.wait(30 * SLOW) == -signal.SIGINT
        process.communicate()


@test
def the_shell_s_job_control_works():
    with scratch() as folder:
        view = babbler(folder)
        with Terminal(command=["bash", "--norc", "--noprofile", "-i"], env={"PS1": "shell$ "}) as shell:
            shell.expect(r"shell\$ ")
            shell.type(f"{TPINFER} chat {view} {' '.join(map(str, BABBLE))} --seed {SEED}\r", "/help lists(?s:.*)" + PROMPT)
            shell.type("half a", "half a")
            shell.type("\x1a", r"Stopped(?s:.*)shell\$ ")
            shell.type("fg\r", r"> half a")
            shell.type(" line\r", r"( [a-z]+)+(?s:.*)" + PROMPT)
            shell.type("\x04", r"shell\$ ")
            shell.type("echo status=$?\r", "status=0\r\n")
            leave(shell, "exit\r")


@test
def history_outlives_the_program():
    with scratch() as folder:
        view, state = babbler(folder), folder / "state"
        env = {"XDG_STATE_HOME": str(state)}
        with talking(view, *BABBLE, "--seed", SEED, env=env) as terminal:
            terminal.type("first œuvre\r", r"(?s:\n.*)" + PROMPT)
            terminal.type("/stats\r", r"(?s:\n.*)" + PROMPT)
            terminal.type("   \r", r"(?s:\n.*)" + PROMPT)
            leave(terminal)
        file = state / "tensorport/chat_history"
        assert file.read_text() == "first œuvre\n/stats\n"
        assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
        with file.open("ab") as more:
            more.write(b"\xff bad\nhalf a li")
        with talking(view, *BABBLE, "--seed", SEED, env=env) as terminal:
            terminal.type("\x1b[A", "/stats")
            terminal.type("\x1b[A", "first œuvre")
            terminal.type("\x01x\x05y\r", r"(?s:\n.*)" + PROMPT)  # to the beginning, to the end
            terminal.type(f"/save {folder}/session\r", "saved")
            terminal.expect(PROMPT)
            leave(terminal)
        assert contents(folder / "session", "user") == ["xfirst œuvrey"]
        # Not a place for a history: a warning, and no more.
        (folder / "file").touch()
        with Terminal(view, env={"XDG_STATE_HOME": str(folder / "file")}) as terminal:
            terminal.expect(r"no history: (?s:.*)" + PROMPT)
            leave(terminal)
        # 1000 lines are remembered, however long the file is.
        file.write_text("".join(f"line {i}\n" for i in range(200_000)))
        with talking(view, env=env) as terminal:
            terminal.type("\x1b[A", "line 199999")
            terminal.type("\x03", PROMPT)
            leave(terminal)


@test
def nothing_typed_ahead_or_pasted_is_lost():
    """UTF-8 in any locale; lines that come while an answer is written are the next ones."""
    with scratch() as folder:
        view, file = babbler(folder), folder / "session"
        for locale in ("C", "C.UTF-8"):
            with talking(view, *BABBLE, "--seed", SEED, env={"LC_ALL": locale}) as terminal:
                terminal.send("größe 日本 🙂\rzwei\r" + f"/save {file}\r")
                terminal.expect("saved(?s:.*)" + PROMPT)
                leave(terminal)
            assert contents(file, "user") == ["größe 日本 🙂", "zwei"], locale


main()
