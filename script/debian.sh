# shellcheck shell=bash disable=SC2016,SC2034,SC2154 # inner shells expand; others assign and use
#
# debian.sh: other releases of Debian, to build and test in.
#
# Use:     source it after lib.sh.  Works on Linux, as root.
# Leaves:  trees of files in $cache, one a release, each with the packages that
#          were asked for; delete them when you like.
#
# A tree is what debootstrap makes of a release, with packages added.  It is
# kept, since it takes minutes to fetch.  Work is done in front of it, not in
# it: an overlay in memory takes whatever is written, and is forgotten.
#
# Work runs in namespaces of its own, of mounts, processes and System V memory:
# what it mounted and started ends with it, by the kernel's hand, also when
# this script is killed.  The network is the machine's.

# where trees are kept, and for how many days one is taken as it is
cache=${TEGRO_CACHE:-/var/cache/tegro}
tree_days=7

# which release has which PostgreSQL
declare -A release_of=([15]=bookworm [17]=trixie [18]=sid [19]=experimental)

# Experimental is no release of its own: its packages are added to those of sid.
# The source packages that are taken from there; everything else is sid's.
experimental_sources=(postgresql-19)

# in seconds: a mirror that answers, but not to the end, must not hold us
fetch_limit=900

# become_root OPTION...: by sudo, if need be; the script starts anew
become_root()
{
	((EUID != 0)) || return 0
	command -v sudo >/dev/null || die 'this needs root, or sudo: it works in another Debian'
	exec sudo --preserve-env=PG_CONFIG,TEGRO_CACHE,TEGRO_MIRROR,TEGRO_TEST_LIMIT,http_proxy,https_proxy \
		-- "$0" "$@"
}

# find_mirror: prints where this machine's apt gets Debian from
find_mirror()
{
	if [[ -n ${TEGRO_MIRROR:-} ]]
	then
		printf '%s\n' "$TEGRO_MIRROR"
		return
	fi
	# needs no lists, and reads whatever form the sources are written in
	apt-get update --print-uris 2>/dev/null |
		sed -n -E "s,^'([^']*[^/])/*/dists/([a-z]+)/(InRelease|Release)' .*,\1,p" |
		grep -v -E '(security|archive)/?$' | head -n 1 | grep .
}

# apt_configuration: how this machine's apt reaches its mirror
apt_configuration()
{
	apt-config dump | grep -E '^Acquire::(Check-|http|ftp|Retries|ForceIPv)[^ ]* "[^"]'
}

# tree_command RELEASE COMMAND...: runs it in the release's tree; what it writes
# there stays.  It sees the checkout in /mnt.
tree_command()
{
	local tree=$cache/$1

	shift
	in_namespaces "$tree" '
		mount --bind -o ro "$root" "$tree/mnt"
		mount -o remount,bind,ro "$tree/mnt"' "$@"
}

# clean_command RELEASE EXCHANGE COMMAND...: runs it in front of the release's
# tree; what it writes is forgotten, except in /exchange, which is EXCHANGE.
# $old_release, if set, is in /old, in the same way.
clean_command()
{
	local base=$cache/$1 exchange=$2 old=${old_release:+$cache/$old_release}

	shift 2
	# the mount point is there already, and other mounts there don't matter to us
	in_namespaces "$directory/front" '
		mount -t tmpfs -o mode=755,size=80% tegro "$tree"
		mkdir "$tree/written" "$tree/work" "$tree/all"
		mount -t overlay -o "lowerdir=$base,upperdir=$tree/written,workdir=$tree/work" \
			tegro "$tree/all"
		if [[ -n $old ]]
		then
			mkdir "$tree/written_old" "$tree/work_old" "$tree/all/old"
			mount -t overlay -o "lowerdir=$old,upperdir=$tree/written_old,workdir=$tree/work_old" \
				tegro "$tree/all/old"
		fi
		tree+=/all
		mkdir -p "$tree/exchange"
		mount --bind "$exchange" "$tree/exchange"' "$@"
}

# in_namespaces TREE MOUNTS COMMAND...: runs COMMAND with TREE as its root, after
# MOUNTS, a piece of shell
in_namespaces()
{
	local tree=$1 mounts=$2

	shift 2
	mkdir -p "$tree"
	# Process 1 of the namespace stays a shell: it takes in orphans, and
	# timeout(1) holds a child of process 1 to have lost its parent.
	# setpriv: should this script be killed, so is all in there.
	run setpriv --pdeathsig KILL -- \
		unshare --mount --ipc --pid --fork --kill-child -- \
		env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root \
			DEBIAN_FRONTEND=noninteractive TEGRO_TEST_LIMIT="${TEGRO_TEST_LIMIT:-}" \
			root="$root" base="${base:-}" exchange="${exchange:-}" old="${old:-}" tree="$tree" \
		bash -euc "$mounts"'
			mount -t proc proc "$tree/proc"
			mount -t tmpfs -o mode=1777 tegro "$tree/dev/shm"
			mount -t devpts -o newinstance,ptmxmode=666,mode=620 tegro "$tree/dev/pts"
			unset root base exchange old
			chroot "$tree" "$@" && status=0 || status=$?
			exit "$status"' bash "$@"
}

# lock_tree RELEASE shared|exclusive: until the script ends, or locks it anew
lock_tree()
{
	mkdir -p "$cache"
	exec {tree_lock}>>"$cache/$1.lock"
	flock "--$2" "$tree_lock"
}

unlock_tree()
{
	exec {tree_lock}>&-
}

# make_tree RELEASE PACKAGES...: sees to it that the release's tree is there and
# not older than $tree_days, that script/packages --test has run in it, for the
# server of PG_CONFIG, and that PACKAGES are installed.  Fails if that can't be
# had, and says why.
make_tree()
{
	local release=$1 log=$directory/$1.log

	shift
	lock_tree "$release" exclusive
	fetch_tree "$release" "$release" || return
	progress "Debian $release: packages that are missing"
	tree_command "$release" timeout "$fetch_limit" bash -euc '
		dpkg --configure -a		# it may have been interrupted
		PG_CONFIG=$1 /mnt/script/packages --test --model
		shift
		if (($# > 0)) && ! dpkg-query -W "$@" >/dev/null 2>&1
		then
			apt-get -q update
			apt-get -q -y --no-install-recommends install "$@"
		fi
		apt-get -q clean' packages "$PG_CONFIG" "$@" \
		</dev/null >"$log" 2>&1 || fetch_failed "$release" "$log" || return
	unlock_tree
}

# use_tree RELEASE PACKAGES...: as make_tree; but a tree that was fetched before,
# and cannot be brought up to date, is used as it is, with a warning
use_tree()
{
	make_tree "$@" && return
	[[ -e $cache/$1/.tegro ]] || return
	warn "Debian $1 is used as it was fetched last"
}

# make_bare_tree RELEASE: as make_tree, for a tree RELEASE.bare, with nothing added
make_bare_tree()
{
	lock_tree "$1.bare" exclusive
	fetch_tree "$1" "$1.bare" || return
	unlock_tree
}

# fetch_tree RELEASE NAME: makes the tree, or brings it up to date; the caller has
# locked it
fetch_tree()
{
	local release=$1 name=$2 tree=$cache/$2 mirror log=$directory/$2.log suite=$1

	[[ $release != experimental ]] || suite=sid
	if [[ ! -e $tree/.tegro ]]
	then
		mirror=$(find_mirror) ||
			{
				warn "no Debian mirror is known to this machine's apt; set TEGRO_MIRROR"
				return 1
			}
		command -v debootstrap >/dev/null || install_debootstrap || return
		progress "fetching Debian $release into $tree; that takes some minutes"
		rm -rf "$tree"
		run timeout "$fetch_limit" debootstrap --variant=minbase \
			--include=ca-certificates "$suite" "$tree" "$mirror" \
			</dev/null >"$log" 2>&1 || fetch_failed "$name" "$log" || return
		apt_configuration >"$tree/etc/apt/apt.conf.d/50tegro" || true
		[[ $suite == "$release" ]] || add_experimental "$tree" "$mirror"
		touch -d @0 "$tree/.tegro"
	fi
	if [[ -e /etc/resolv.conf ]]
	then
		cat /etc/resolv.conf >"$tree/etc/resolv.conf"
	fi
	if [[ -n $(find "$tree/.tegro" -mtime "+$((tree_days - 1))") ]]
	then
		progress "Debian $release: bringing it up to date"
		tree_command "$name" timeout "$fetch_limit" bash -euc '
			dpkg --configure -a
			apt-get -q update
			apt-get -q -y --no-install-recommends dist-upgrade
			apt-get -q clean' </dev/null >"$log" 2>&1 || fetch_failed "$name" "$log" || return
		touch "$tree/.tegro"
	fi
}

# add_experimental TREE MIRROR: adds that suite to a tree of sid.  apt takes
# nothing from it by itself; the packages of $experimental_sources compete with
# those of sid, so the newer ones are installed.  The client library is among
# them.
add_experimental()
{
	local tree=$1 mirror=$2

	printf 'deb %s experimental main\n' "$mirror" \
		>"$tree/etc/apt/sources.list.d/experimental.list"
	cat >"$tree/etc/apt/preferences.d/tegro" <<-END
		Package: ${experimental_sources[@]/#/src:}
		Pin: release a=experimental
		Pin-Priority: 500
	END
	# postgresql-common's list for building packages has only sid's own
	mkdir -p "$tree/etc/postgresql-common"
	printf '%s\n' "${experimental_sources[@]#postgresql-}" \
		>"$tree/etc/postgresql-common/supported_versions"
}

# fetch_failed TREE LOG: says so, and fails
fetch_failed()
{
	[[ -z $interrupted ]] || exit 1
	unlock_tree
	show_end "$2"
	warn "$cache/$1 could not be fetched, or not wholly; without it, the next run begins anew"
	return 1
}

install_debootstrap()
{
	local log=$directory/debootstrap.log

	progress 'installing debootstrap'
	{ apt-get -q update && apt-get -q -y --no-install-recommends install debootstrap; } \
		</dev/null >"$log" 2>&1 ||
		{
			show_end "$log"
			warn 'debootstrap could not be installed'
			return 1
		}
}

# describe_tree RELEASE PACKAGE...: their versions, in a line
describe_tree()
{
	local tree=$cache/$1

	shift
	dpkg-query "--admindir=$tree/var/lib/dpkg" -W \
		-f '${Package} ${Version}\n' "$@" 2>/dev/null | sed -n '/ ./p' | paste -s -d , || true
}
