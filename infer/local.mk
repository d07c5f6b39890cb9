# The companion that runs models from the view. It knows the view's files, and of the code beside
# it only decode/ and fs/base.
noinst_LIBRARIES += libinfer.a

libinfer_a_SOURCES = \
	infer/backend.c infer/backend.h \
	infer/chat/answer.c infer/chat/answer.h \
	infer/chat/conversation.c infer/chat/conversation.h \
	infer/chat/conversation_json.c infer/chat/conversation_json.h \
	infer/chat/dialogue.c infer/chat/dialogue.h \
	infer/chat/harmony.c infer/chat/harmony.h \
	infer/chat/harmony_parser.c infer/chat/harmony_parser.h \
	infer/chat/harmony_tools.c \
	infer/chat/prompt.c infer/chat/prompt.h \
	infer/chat/template.c infer/chat/template.h \
	infer/engine/batch.c infer/engine/batch.h \
	infer/engine/generate.c infer/engine/generate.h \
	infer/engine/logprobs.c infer/engine/logprobs.h \
	infer/engine/lookup.c infer/engine/lookup.h \
	infer/engine/sampler.c infer/engine/sampler.h \
	infer/engine/session.c infer/engine/session.h \
	infer/engine/session_file.c infer/engine/session_file.h \
	infer/model/config.c infer/model/config.h \
	infer/model/config_rope.c infer/model/config_rope.h \
	infer/model/cost.c infer/model/cost.h \
	infer/model/faults.c infer/model/faults.h \
	infer/model/fields.c infer/model/fields.h \
	infer/model/fingerprint.c infer/model/fingerprint.h \
	infer/model/held.c infer/model/held.h \
	infer/model/memory.c infer/model/memory.h \
	infer/model/model.c infer/model/model.h \
	infer/model/rope.c infer/model/rope.h \
	infer/model/sampling.c infer/model/sampling.h \
	infer/tokenizer/added_tokens.c infer/tokenizer/added_tokens.h \
	infer/tokenizer/bpe.c infer/tokenizer/bpe.h \
	infer/tokenizer/bpe_heap.c infer/tokenizer/bpe_heap.h \
	infer/tokenizer/buffer.c infer/tokenizer/buffer.h \
	infer/tokenizer/byte_level.c infer/tokenizer/byte_level.h \
	infer/tokenizer/hash.h \
	infer/tokenizer/members.c infer/tokenizer/members.h \
	infer/tokenizer/merges.c infer/tokenizer/merges.h \
	infer/tokenizer/normalizer.c infer/tokenizer/normalizer.h \
	infer/tokenizer/pattern.c infer/tokenizer/pattern.h \
	infer/tokenizer/pattern_translate.c \
	infer/tokenizer/splitter.c infer/tokenizer/splitter.h \
	infer/tokenizer/stop_strings.c infer/tokenizer/stop_strings.h \
	infer/tokenizer/tokenizer.c infer/tokenizer/tokenizer.h \
	infer/tokenizer/tokenizer_json.c infer/tokenizer/tokenizer_json.h \
	infer/tokenizer/tokenizer_json_model.c \
	infer/tokenizer/tokenizer_json_rules.c \
	infer/tokenizer/tokenizer_parts.h \
	infer/tokenizer/unicode_new.c infer/tokenizer/unicode_new.h \
	infer/tokenizer/utf8.c infer/tokenizer/utf8.h \
	infer/tokenizer/vocabulary.c infer/tokenizer/vocabulary.h \
	infer/validate/difference.c infer/validate/difference.h \
	infer/validate/feed.c infer/validate/feed.h \
	infer/validate/goldens.c infer/validate/goldens.h \
	infer/validate/inside.c infer/validate/inside.h \
	infer/validate/judge.c infer/validate/judge.h \
	infer/validate/npy_file.c infer/validate/npy_file.h \
	infer/validate/validate.c infer/validate/validate.h \
	infer/weights/load.c infer/weights/load.h \
	infer/weights/manifest.c infer/weights/manifest.h \
	infer/weights/mapping.c infer/weights/mapping.h \
	infer/weights/matrix.h \
	infer/weights/view.c infer/weights/view.h
# The frequencies of the rotary embedding are rounded as their reference does it.
libinfer_a_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS) $(PCRE2_CFLAGS) $(XXHASH_CFLAGS) -ffp-contract=off

INFER_LIBS = libinfer.a

include infer/cpu/local.mk

INFER_LIBS += libfs.a $(DECODE_LIBS) $(CJSON_LIBS) $(PCRE2_LIBS) $(XXHASH_LIBS)

bin_PROGRAMS += tpinfer
tpinfer_SOURCES = \
	infer/cli/answer_printer.c infer/cli/answer_printer.h \
	infer/cli/answer_text.c infer/cli/answer_text.h \
	infer/cli/backends.c infer/cli/backends.h \
	infer/cli/bench_case.c infer/cli/bench_case.h \
	infer/cli/bench_prompts.c infer/cli/bench_prompts.h \
	infer/cli/bench_report.c infer/cli/bench_report.h \
	infer/cli/bench_stages.c infer/cli/bench_stages.h \
	infer/cli/chat.c infer/cli/chat.h \
	infer/cli/chat_commands.c infer/cli/chat_commands.h \
	infer/cli/chat_note.c infer/cli/chat_note.h \
	infer/cli/chat_text.c infer/cli/chat_text.h \
	infer/cli/command_bench.c \
	infer/cli/command_chat.c \
	infer/cli/command_run.c \
	infer/cli/command_tokenize.c \
	infer/cli/command_trace.c \
	infer/cli/command_validate.c \
	infer/cli/commands.h \
	infer/cli/dialogue_arguments.c infer/cli/dialogue_arguments.h \
	infer/cli/engine_arguments.c infer/cli/engine_arguments.h \
	infer/cli/history_file.c infer/cli/history_file.h \
	infer/cli/interrupt.c infer/cli/interrupt.h \
	infer/cli/line_reader.c infer/cli/line_reader.h \
	infer/cli/logits_file.c infer/cli/logits_file.h \
	infer/cli/main.c \
	infer/cli/memory_use.c infer/cli/memory_use.h \
	infer/cli/message_reader.c infer/cli/message_reader.h \
	infer/cli/print.c infer/cli/print.h \
	infer/cli/prompt_signals.c infer/cli/prompt_signals.h \
	infer/cli/run_arguments.c infer/cli/run_arguments.h \
	infer/cli/run_report.c infer/cli/run_report.h \
	infer/cli/runtime.c infer/cli/runtime.h \
	infer/cli/sampling_arguments.c infer/cli/sampling_arguments.h \
	infer/cli/standard_input.c infer/cli/standard_input.h \
	infer/cli/token_ids.c infer/cli/token_ids.h \
	infer/cli/trace_files.c infer/cli/trace_files.h \
	infer/cli/validate_report.c infer/cli/validate_report.h
tpinfer_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS) $(LIBEDIT_CFLAGS)
tpinfer_CPPFLAGS = $(AM_CPPFLAGS) -DTP_PLUGIN_DIRECTORY='"$(pkglibdir)"'
tpinfer_LDADD = $(INFER_LIBS) $(LIBEDIT_LIBS)
