# Sourced after mirror.sh: programs from another Debian suite, unpacked (not installed) into a prefix of their own with
# the C library and the loader that they were built for. Nothing outside of the prefix changes; apt verifies every
# signature and checksum as it does for any package. The one who sources this defines fail().

# Unpacks PACKAGE of SUITE and all that it depends on into WORK/new/root. Usage: unpack_from_suite WORK SUITE PACKAGE
unpack_from_suite() {
  local work=$1 suite=$2 package=$3 mirror options closure file
  mirror=$(debian_mirror) || fail "this machine's apt sources name no Debian archive to take suite $suite from"
  mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/parts" "$work/new/root" "$work/new/bin"
  printf 'deb %s %s %s main\n' "$(debian_signed_by)" "$mirror" "$suite" >"$work/apt/sources.list"
  # An empty status file: to this apt nothing is installed, so what it fetches is the whole closure, C library included.
  : >"$work/apt/status"
  options=(
    -o "Dir::Etc::sourcelist=$work/apt/sources.list" -o 'Dir::Etc::sourceparts=-' -o "Dir::Etc::preferencesparts=$work/apt/parts"
    -o "Dir::State::lists=$work/apt/lists" -o "Dir::State::status=$work/apt/status"
    -o "Dir::State::extended_states=$work/apt/extended_states"
    -o "Dir::Cache=$work/apt/cache" -o "Dir::Cache::archives=$work/apt/cache/archives"
    -o 'Acquire::Languages=none' -o 'APT::Install-Recommends=false' -o 'Debug::NoLocking=true' -o 'APT::Sandbox::User=root'
  )
  apt-get -qq "${options[@]}" update >&2 || fail "cannot read suite $suite from this machine's mirror"
  mapfile -t closure < <(apt-get -qq "${options[@]}" --simulate install "$package" 2>/dev/null | awk '$1 == "Inst" { print $2 }')
  [ "${#closure[@]}" -gt 0 ] || fail "suite $suite has no installable $package for this architecture"
  (cd "$work/apt/cache/archives" && apt-get -qq "${options[@]}" download "${closure[@]}" >&2) ||
    fail "cannot download the packages of $package"
  for file in "$work"/apt/cache/archives/*.deb; do
    dpkg -x "$file" "$work/new/root" || fail "cannot unpack $(basename "$file")"
  done
}

# Writes WORK/new/bin/NAME, which runs PROGRAM (a path beneath the root) once the tree is at PREFIX (before that, where
# DELTAHOP_PREFIX_ROOT says), and drops what no program needs. Usage: wrap_program WORK PREFIX NAME PROGRAM
wrap_program() {
  local work=$1 prefix=$2 name=$3 program=$4 root=$1/new/root loader library
  loader=$(cd "$root" && find . -name 'ld-linux*.so.*' -type f -printf '%P' -quit)
  library=$(dirname "$(cd "$root" && find . -name libc.so.6 -printf '%P' -quit)")
  [ -f "$root/$program" ] && [ -n "$loader" ] && [ "$library" != . ] || fail "the packages hold no $name, loader or C library"
  # Documents and locales are most of the files and none of the use.
  rm -rf "$root/usr/share" "$root/var" "$root/etc"
  cat >"$work/new/bin/$name" <<WRAPPER
#!/bin/sh
# Made by a set-up script: $name with the loader and the libraries it was built for.
root=\${DELTAHOP_PREFIX_ROOT:-$prefix/root}
exec "\$root/$loader" --library-path "\$root/$library" "\$root/$program" "\$@"
WRAPPER
  chmod 755 "$work/new/bin/$name"
}

# Installs the newest NAME of suite sid at PREFIX, unless NEED or later is there. VERSION is a function that prints the
# version of the program beneath a prefix, and nothing if there is none that runs.
# Usage: install_private NAME PREFIX NEED VERSION
install_private() {
  local name=$1 prefix=$2 need=$3 version=$4 suite=sid work program found
  found=$("$version" "$prefix")
  if [ -n "$found" ] && dpkg --compare-versions "$found" ge "$need"; then return 0; fi
  [ "$(id -u)" = 0 ] || fail "needs root to write $prefix"
  command -v apt-get >/dev/null || fail "needs apt: this is not a Debian machine; install $name $need or later yourself"

  mkdir -p "$(dirname "$prefix")"
  # In the prefix's own parent, so that the last step is one rename.
  work=$(mktemp -d "$(dirname "$prefix")/.$name-new.XXXXXX")
  # shellcheck disable=SC2064  # as it is now
  trap "rm -rf '$work'" EXIT
  chmod 755 "$work"
  printf 'fetching %s from suite %s\n' "$name" "$suite" >&2
  unpack_from_suite "$work" "$suite" "$name"
  program=$(cd "$work/new/root" && find . -path "*bin/$name" -type f -printf '%P' -quit)
  wrap_program "$work" "$prefix" "$name" "$program"

  # Checked where it was built, since the wrapper names the final place.
  found=$(DELTAHOP_PREFIX_ROOT=$work/new/root "$version" "$work/new")
  { [ -n "$found" ] && dpkg --compare-versions "$found" ge "$need"; } ||
    fail "suite $suite gave $name '${found:-that does not run}', not $need or later"

  rm -rf "$prefix"
  mv -T "$work/new" "$prefix"
  printf '%s %s is in %s\n' "$name" "$found" "$prefix" >&2
}
