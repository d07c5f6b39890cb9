# Completion for bash, found by the name of each command, and zsh, by the names in its first line.
EXTRA_DIST += completions/tensorport.bash

zshcompletiondir = $(datadir)/zsh/site-functions
dist_zshcompletion_DATA = completions/_tensorport

install-data-local: install-bash-completion
uninstall-local: uninstall-bash-completion
.PHONY: install-bash-completion uninstall-bash-completion
install-bash-completion:
	$(MKDIR_P) '$(DESTDIR)$(bashcompletiondir)'
	$(INSTALL_DATA) $(srcdir)/completions/tensorport.bash '$(DESTDIR)$(bashcompletiondir)/tensorport'
	cd '$(DESTDIR)$(bashcompletiondir)' && $(LN_S) -f tensorport tensorport-mount
uninstall-bash-completion:
	rm -f '$(DESTDIR)$(bashcompletiondir)/tensorport' '$(DESTDIR)$(bashcompletiondir)/tensorport-mount'
