# Sourced by the other scripts here. Says where this machine gets Debian from, so that none of them names a host.

# Prints the URI of the Debian archive that this machine's own apt sources use; fails if they name none.
# Only apt knows the archive's Origin, and only once its lists have been fetched: hence one update if they are absent.
debian_mirror() {
  local mirror
  mirror=$(debian_mirror_of_lists)
  if [ -z "$mirror" ]; then
    apt-get -qq update >&2 || return 1
    mirror=$(debian_mirror_of_lists)
  fi
  [ -n "$mirror" ] && printf '%s\n' "$mirror"
}

debian_mirror_of_lists() {
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk -F'|' '$1 == "Debian" && $2 == "Debian" { print $3; exit }'
}

# Prints the source-list option that pins a suite to Debian's own keys, where the keyring package is installed.
debian_signed_by() {
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  if [ -r "$keyring" ]; then printf '[signed-by=%s]' "$keyring"; fi
}
