# Sourced after mirror.sh: programs that stable Debian has too old, installed from its backports. The machine's own package
# sources stay as they are. The one who sources this defines fail().

# Installs PACKAGES from backports, unless NEED or later of NAME is there. VERSION is a function that prints its version,
# and nothing if it is not there as a whole.
# Usage: install_from_backports NAME NEED VERSION PACKAGES...
install_from_backports() {
  local name=$1 need=$2 version=$3 suite=bookworm mirror work log options of found
  shift 3
  found=$("$version")
  if [ -n "$found" ] && dpkg --compare-versions "$found" ge "$need"; then return 0; fi
  [ "$(id -u)" = 0 ] || fail 'needs root to install packages'
  command -v apt-get >/dev/null || fail "needs apt: this is not a Debian machine; install $name $need or later yourself"

  mirror=$(debian_mirror) || fail "this machine's apt sources name no Debian archive"
  work=$(mktemp -d)
  # shellcheck disable=SC2064 # it is gone from scope when the script ends
  trap "rm -rf '$work'" EXIT
  chmod 755 "$work"
  mkdir -p "$work/lists/partial"
  for of in "$suite" "$suite-updates" "$suite-backports"; do
    printf 'deb %s %s %s main\n' "$(debian_signed_by)" "$mirror" "$of"
  done >"$work/sources.list"
  options=(
    -qq -o "Dir::Etc::sourcelist=$work/sources.list" -o 'Dir::Etc::sourceparts=-' -o "Dir::State::lists=$work/lists"
    -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o 'Acquire::Languages=none' -o 'APT::Sandbox::User=root'
    -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120
  )
  printf 'installing %s from %s-backports\n' "$name" "$suite" >&2
  log=$work/log
  export DEBIAN_FRONTEND=noninteractive
  {
    apt-get "${options[@]}" update &&
      apt-get "${options[@]}" -y --no-install-recommends -t "$suite-backports" install "$@"
  } >"$log" 2>&1 || fail "cannot install $name: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")"
  found=$("$version")
  [ -n "$found" ] && dpkg --compare-versions "$found" ge "$need" ||
    fail "$suite-backports gave $name '${found:-that does not run}', not $need or later"
}
