dist_man_MANS = \
	man/tensorport-convert.1 \
	man/tensorport-doctor.1 \
	man/tensorport-inspect.1 \
	man/tensorport-manifest.5 \
	man/tensorport-mount.8 \
	man/tensorport-mounts.1 \
	man/tensorport-pack.1 \
	man/tensorport-pack.5 \
	man/tensorport-run.1 \
	man/tensorport-synth.1 \
	man/tensorport-umount.1 \
	man/tensorport-unpack.1 \
	man/tensorport-verify.1 \
	man/tensorport.1 \
	man/tpinfer-bench.1 \
	man/tpinfer-chat.1 \
	man/tpinfer-run.1 \
	man/tpinfer-session.5 \
	man/tpinfer-template.5 \
	man/tpinfer-tokenize.1 \
	man/tpinfer-trace.1 \
	man/tpinfer-validate.1 \
	man/tpinfer.1
