dist_man_MANS = \
	man/tensorport-manifest.5 \
	man/tensorport-mount.8 \
	man/tensorport.1
