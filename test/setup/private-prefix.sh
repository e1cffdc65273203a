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
