# The fuzz targets over their stored inputs, by any compiler. To fuzz, from the top of the
# sources (the first folder receives what is found):
#
#     clang -fsanitize=fuzzer,address,undefined -std=gnu11 -g -O2 -I. \
#         tests/fuzz/fuzz_json.c decode/{dtype,error,json,npy,safetensors}.c -o fuzz-json
#     mkdir found && ./fuzz-json found tests/fuzz/corpus/json
#
# fuzz_packed.c needs what it calls instead, decode/{bitshuffle,bitshuffle_*,block,codec,codec_*,
# dtype,error,packed}.c, with -mavx2 -mf16c -mfma -mbmi2 -mavx512{f,bw,vl,dq} -llz4 -lxxhash.
# fuzz_manifest.c and fuzz_model_config.c take more: fs/base/bytes.c, infer/weights/manifest.c or
# infer/model/{config,config_rope,fields,rope}.c, and -lcjson -lm.
# Those of the tokenizer and of chats take these in the place of decode/...:
#
#     -D_GNU_SOURCE infer/{tokenizer,chat}/*.c fs/base/{bytes,json_text}.c decode/{error,json}.c \
#         -lpcre2-8 -lcjson
replay_tests = \
	tests/fuzz/replay-conversation \
	tests/fuzz/replay-harmony \
	tests/fuzz/replay-json \
	tests/fuzz/replay-json-edit \
	tests/fuzz/replay-manifest \
	tests/fuzz/replay-model-config \
	tests/fuzz/replay-npy \
	tests/fuzz/replay-packed \
	tests/fuzz/replay-safetensors \
	tests/fuzz/replay-template \
	tests/fuzz/replay-tokenizer
check_PROGRAMS += $(replay_tests)
TESTS += $(replay_tests)
EXTRA_DIST += tests/fuzz/corpus

tests_fuzz_replay_json_SOURCES = tests/fuzz/fuzz_json.c tests/fuzz/replay.c
tests_fuzz_replay_json_CPPFLAGS = $(AM_CPPFLAGS) -DREPLAY_CORPUS='"tests/fuzz/corpus/json"'
tests_fuzz_replay_json_LDADD = $(DECODE_LIBS)

tests_fuzz_replay_json_edit_SOURCES = \
	fs/export/convert/json_edit.c tests/fuzz/fuzz_json_edit.c tests/fuzz/replay.c
tests_fuzz_replay_json_edit_CPPFLAGS = $(AM_CPPFLAGS) -DREPLAY_CORPUS='"tests/fuzz/corpus/json"'
tests_fuzz_replay_json_edit_LDADD = $(DECODE_LIBS)

tests_fuzz_replay_manifest_SOURCES = tests/fuzz/fuzz_manifest.c tests/fuzz/replay.c
tests_fuzz_replay_manifest_CPPFLAGS = $(AM_CPPFLAGS) -DREPLAY_CORPUS='"tests/fuzz/corpus/manifest"'
tests_fuzz_replay_manifest_LDADD = $(INFER_LIBS)

tests_fuzz_replay_model_config_SOURCES = tests/fuzz/fuzz_model_config.c tests/fuzz/replay.c
tests_fuzz_replay_model_config_CPPFLAGS = \
	$(AM_CPPFLAGS) -DREPLAY_CORPUS='"tests/fuzz/corpus/model_config"'
tests_fuzz_replay_model_config_LDADD = $(INFER_LIBS)

tests_fuzz_replay_npy_SOURCES = tests/fuzz/fuzz_npy.c tests/fuzz/replay.c
tests_fuzz_replay_npy_CPPFLAGS = $(AM_CPPFLAGS) -DREPLAY_CORPUS='"tests/fuzz/corpus/npy"'
tests_fuzz_replay_npy_LDADD = $(DECODE_LIBS)

tests_fuzz_replay_packed_SOURCES = tests/fuzz/fuzz_packed.c tests/fuzz/replay.c
tests_fuzz_replay_packed_CPPFLAGS = $(AM_CPPFLAGS) -DREPLAY_CORPUS='"tests/fuzz/corpus/packed"'
tests_fuzz_replay_packed_CFLAGS = $(AM_CFLAGS) $(XXHASH_CFLAGS)
tests_fuzz_replay_packed_LDADD = $(DECODE_LIBS)

tests_fuzz_replay_safetensors_SOURCES = tests/fuzz/fuzz_safetensors.c tests/fuzz/replay.c
tests_fuzz_replay_safetensors_CPPFLAGS = \
	$(AM_CPPFLAGS) -DREPLAY_CORPUS='"tests/fuzz/corpus/safetensors"'
tests_fuzz_replay_safetensors_LDADD = $(DECODE_LIBS)

tests_fuzz_replay_conversation_SOURCES = tests/fuzz/fuzz_conversation.c tests/fuzz/kit_tokenizer.h tests/fuzz/replay.c
tests_fuzz_replay_conversation_CPPFLAGS = \
	$(AM_CPPFLAGS) -DREPLAY_CORPUS='"tests/fuzz/corpus/conversation"'
tests_fuzz_replay_conversation_LDADD = $(INFER_LIBS)

tests_fuzz_replay_harmony_SOURCES = tests/fuzz/fuzz_harmony.c tests/fuzz/kit_tokenizer.h tests/fuzz/replay.c
tests_fuzz_replay_harmony_CPPFLAGS = \
	$(AM_CPPFLAGS) -DREPLAY_CORPUS='"tests/fuzz/corpus/harmony"'
tests_fuzz_replay_harmony_LDADD = $(INFER_LIBS)

tests_fuzz_replay_template_SOURCES = tests/fuzz/fuzz_template.c tests/fuzz/kit_tokenizer.h tests/fuzz/replay.c
tests_fuzz_replay_template_CPPFLAGS = \
	$(AM_CPPFLAGS) -DREPLAY_CORPUS='"tests/fuzz/corpus/template"'
tests_fuzz_replay_template_LDADD = $(INFER_LIBS)

tests_fuzz_replay_tokenizer_SOURCES = tests/fuzz/fuzz_tokenizer.c tests/fuzz/replay.c
tests_fuzz_replay_tokenizer_CPPFLAGS = \
	$(AM_CPPFLAGS) -DREPLAY_CORPUS='"tests/fuzz/corpus/tokenizer"'
tests_fuzz_replay_tokenizer_LDADD = $(INFER_LIBS)
