# shellcheck shell=bash
#
# lib.sh: what the scripts in this folder share.
#
# Use:     source it first of all; it defines variables and functions, and sees
#          to it that the script cleans up after itself however it ends.
# Leaves:  nothing.
#
# Two ideas carry all of it.
#
# A private installation.  Tests never install into the machine's PostgreSQL:
# they get a copy of its programs, in a temporary directory, beside links to
# its libraries and shared files; the extension is installed there.  PostgreSQL
# finds its files relative to its own program, so the copy sees the extension
# and the machine does not.  So nothing needs root, nothing is left installed,
# and two checkouts don't get into each other's way.
#
# A temporary directory that belongs to the server's user, mode 0700, holds
# everything: installation, cluster, socket, certificates, journal.  root and
# that user get in, other users of the machine don't, and one rm ends it.  It
# is under /tmp whatever TMPDIR says: socket paths are limited to 107 bytes,
# and a TMPDIR that only its owner may enter would lock the server out.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# The shop of the tests.  Id and secret key are those of the provider's
# published example, so its signatures are known; none of this opens anything.
shop_id=D0F98E7D7742609DC508D86BB7500914
api_key=sandbox-api-key
secret_key='GB%^&*YJni677'

warn()
{
	printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die()
{
	warn "$@"
	exit 1
}

# progress TEXT: what begins now and takes a while, for who watches; not among
# results
progress()
{
	printf '# [%(%H:%M:%S)T] %s\n' -1 "$*" >&2
}

# usage: prints the comment at the head of the script that calls, and exits
usage()
{
	sed -n '3,/^[^#]/ s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

# --- Signals and temporary directory ---------------------------------------

# What the script does when it ends, the latest first
exit_actions=()

# The signal that the script should be seen to have died of, if any.  A shell
# that runs us in a loop stops on Ctrl-C only if it sees us die of SIGINT.
died_of=

# at_exit COMMAND...
at_exit()
{
	exit_actions=("$(printf '%q ' "$@")" "${exit_actions[@]}")
}

leave()
{
	local status=$? action

	trap '' INT TERM HUP
	trap - EXIT
	set +e
	for action in "${exit_actions[@]}"
	do
		eval "$action"
	done
	if [[ -n $died_of ]]
	then
		trap - "$died_of"
		kill -s "$died_of" $$
	fi
	exit "$status"
}

handle_signals()
{
	trap leave EXIT
	trap 'died_of=INT; exit 130' INT
	trap 'died_of=TERM; exit 143' TERM
	trap 'died_of=HUP; exit 129' HUP
}

# From here on: a signal that comes while no trap is set and the shell waits for
# a command can be lost, and SIGINT can make bash 5.2 loop for ever.
handle_signals

# make_directory: creates $directory, which is gone when the script ends
make_directory()
{
	# first who removes it, then the directory: a signal may come in between
	directory=$(mktemp -u /tmp/tegro.XXXXXXXX)
	at_exit remove_directory
	mkdir -m 700 "$directory"
	chown "$server_user:" "$directory"
}

# programs_below DIRECTORY: the processes that run a program that lies there,
# such as the server of a test that was cut short, one a line
programs_below()
{
	find /proc -mindepth 2 -maxdepth 2 -name exe -lname "$1/*" \
		-printf '%h\n' 2>/dev/null | sed 's,^/proc/,,'
}

# remove_directory: and end the programs that lie in it
remove_directory()
{
	local processes

	mapfile -t processes < <(programs_below "$directory")
	kill -s KILL "${processes[@]}" 2>/dev/null
	rm -rf "$directory"
}

# --- Running things ---------------------------------------------------------

# family PID: PID, and its descendants in this script's process group, that is,
# what a terminal would send a signal to
family()
{
	local pid=$1 child children stat=''

	# after the name, which may hold anything: state, parent, group
	{ read -r -d '' stat <"/proc/$pid/stat"; } 2>/dev/null || true
	read -r _ _ stat _ <<<"${stat##*) }" || true
	if [[ $stat == "$process_group" || $pid == "$running" ]]
	then
		printf '%s\n' "$pid"
	fi
	{ read -r -a children <"/proc/$pid/task/$pid/children"; } 2>/dev/null || true
	for child in "${children[@]}"
	do
		family "$child"
	done
}

# pass_on SIGNAL: to what run runs, as a terminal would
pass_on()
{
	local pids

	interrupted=$1
	# Ctrl-C: the command has it already, and knows best (psql lives on).
	# No "return" in here: in a trap while it waits, bash 5.2 then loses track
	# of its functions.
	if [[ -n $running ]] && ! [[ $1 == INT && -t 0 ]]
	then
		mapfile -t pids < <(family "$running")
		kill -s "$1" "${pids[@]}" 2>/dev/null || true
		wait_for_end "${pids[@]}" || kill -s KILL "${pids[@]}" 2>/dev/null || true
	fi
}

# run COMMAND...: runs it in the foreground as the shell would, and returns its
# status; but a signal sent to the script alone reaches it too, at once.  The
# last signal meanwhile is $interrupted.
#
# The shell would act on a signal only after the command has ended.  So the
# command runs in the background, in the same process group, with the standard
# input that a background command otherwise loses and the interrupt signals
# that it otherwise ignores.
run()
{
	local status process_group running=''

	interrupted=
	read -r _ _ _ _ process_group _ </proc/self/stat
	trap 'pass_on INT' INT
	trap 'pass_on TERM' TERM
	trap 'pass_on HUP' HUP
	env --default-signal=INT,QUIT -- "$@" <&0 &
	running=$!
	if [[ -n $interrupted ]]
	then
		pass_on "$interrupted"		# it came before there was whom to pass it to
	fi
	# a signal ends the wait early
	while
		status=0
		wait "$running" || status=$?
		kill -0 "$running" 2>/dev/null
	do
		:
	done
	wait "$running" 2>/dev/null && status=0 || status=$?
	handle_signals
	if [[ -n $interrupted && $status == "$((128 + $(kill -l "$interrupted")))" ]]
	then
		died_of=$interrupted
	fi
	return "$status"
}

# wait_for_end PID...: waits until none of them runs; fails after 10 s
wait_for_end()
{
	local turn

	for ((turn = 0; turn < 200; turn++))
	do
		kill -0 "$@" 2>/dev/null || return 0
		sleep 0.05
	done
	return 1
}

# quietly WHAT COMMAND...: runs it, says nothing unless it fails, then shows
# the end of what it said and exits.  It needs $directory.
quietly()
{
	local what=$1 log status=0

	shift
	log=$(mktemp "$directory/log.XXXXXXXX")
	run "$@" </dev/null >"$log" 2>&1 || status=$?
	if ((status != 0)) || [[ -n $interrupted ]]
	then
		if [[ -z $interrupted ]]
		then
			show_end "$log"
			warn "$what failed"
		fi
		rm -f "$log"
		died_of=$interrupted
		exit "$status"
	fi
	rm -f "$log"
}

show_end()
{
	tail -n 40 "$1" >&2 || true
}

# spawn SIGNAL LOG COMMAND...: starts it in the background as the server's user,
# out of the terminal's reach, so that Ctrl-C is the command's alone; it gets
# SIGNAL when this script dies, however it dies.  Its process is $spawned.
spawn()
{
	local signal=$1 log=$2

	shift 2
	: >>"$log"
	chown --reference="$directory" "$log"
	# the signal last: a change of user clears it
	setsid "${as_server[@]}" setpriv --pdeathsig "$signal" -- \
		"$@" </dev/null >>"$log" 2>&1 &
	spawned=$!
}

# --- PostgreSQL --------------------------------------------------------------

# find_postgresql: sets and exports PG_CONFIG, from the environment or else the
# newest server installed; sets $bindir.  Fails if there is none.
find_postgresql()
{
	local candidate

	if [[ -z ${PG_CONFIG:-} ]]
	then
		for candidate in $(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V)
		do
			if [[ -x $candidate ]]
			then
				PG_CONFIG=${candidate%/postgres}/pg_config
			fi
		done
	fi
	PG_CONFIG=$(command -v "${PG_CONFIG:-pg_config}") || return
	bindir=$("$PG_CONFIG" --bindir) || return
	# Debian's /usr/bin/pg_config stands for another one, which may change
	if [[ -x $bindir/pg_config ]]
	then
		PG_CONFIG=$bindir/pg_config
	fi
	export PG_CONFIG
}

# choose_server_user: PostgreSQL does not run as root.  Sets $server_user, and
# $as_server, what to put before a command to run it as that user.
choose_server_user()
{
	if ((EUID != 0))
	then
		server_user=$(id -un)
		as_server=()
		return
	fi
	server_user=postgres
	id -u "$server_user" >/dev/null 2>&1 ||
		die "PostgreSQL can't run as root, and there is no user $server_user"
	as_server=(setpriv "--reuid=$server_user" "--regid=$server_user"
		--init-groups --)
}

# build TARGET...: make in the checkout, one at a time whoever runs it
build()
{
	quietly "make $*" flock "$root" make -s -C "$root" "PG_CONFIG=$PG_CONFIG" "$@"
}

# copy_checkout TO: what git would commit now, or all where there is no git, into
# a new directory
copy_checkout()
{
	mkdir "$1"
	(
		cd "$root" || exit
		list_files | tar -c --null -T - | tar -x -C "$1"
	)
}

# list_files: those that copy_checkout copies, each ended by a zero byte
list_files()
{
	local file

	{
		# an own checkout or not: nothing of its configuration is run
		git -c safe.directory='*' ls-files -z -co --exclude-standard 2>/dev/null ||
			find . -type f -not -path './.git/*' -not -name '*.[od]' \
				-not -name '*.so' -not -name '*.bc' -not -name tegro-sandbox -print0
	} | while IFS= read -r -d '' file
	do
		# git lists deleted ones, too
		if [[ -e $file || -L $file ]]
		then
			printf '%s\0' "$file"
		fi
	done
}

# link_missing FROM TO: links in directory TO to what FROM has and TO has not;
# directories that both have are filled in the same way
link_missing()
{
	local from=$1 to=$2 entry links=()

	for entry in "$from"/*
	do
		entry=${entry##*/}
		if [[ $entry == tegro* ]]
		then
			continue			# one that the machine has is not ours
		elif [[ -d $to/$entry ]]
		then
			link_missing "$from/$entry" "$to/$entry"
		elif [[ ! -e $to/$entry ]]
		then
			links+=("$from/$entry")
		fi
	done
	ln -s -t "$to" "${links[@]}"
}

# install_privately: makes $directory/installation, a private installation of
# PostgreSQL with the extension in it; its programs are in $bindir from then on
install_privately()
{
	local installation=$directory/installation kind from

	build install "DESTDIR=$installation"
	for kind in pkglibdir sharedir
	do
		from=$("$PG_CONFIG" "--$kind")
		mkdir -p "$installation$from"
		link_missing "$from" "$installation$from"
	done
	mkdir -p "$installation$bindir"
	cp -aL "$bindir/." "$installation$bindir"
	bindir=$installation$bindir
	export PATH=$bindir:$PATH
}

# prepare_programs NAME: makes $directory/NAME, where test programs may write,
# and sets $as_program, what to put before a command to run it as PostgreSQL's
# own make runs test programs, by a user that may run servers.  It needs a
# private installation; $pgxs is set to the folder of PostgreSQL's own tests.
prepare_programs()
{
	local place=$directory/$1

	pgxs=$(dirname "$("$PG_CONFIG" --pgxs)")/../..
	mkdir -p "$place/tmp_check/log" "$place/home"
	chown -R --reference="$directory" "$place"
	# shellcheck disable=SC2034 # for who calls
	as_program=("${as_server[@]}" env
		HOME="$place/home"
		TMPDIR="$place"
		TESTDIR="$place"
		TESTDATADIR="$place/tmp_check"
		TESTLOGDIR="$place/tmp_check/log"
		PG_TEST_PORT_DIR="$place"
		PG_REGRESS="$pgxs/src/test/regress/pg_regress"
		PGPORT=65432)
}

# --- The sandbox -------------------------------------------------------------

# start_sandbox OPTION...: starts one with the tests' shop, and exports where it
# is.  It takes no nonce twice, takes payouts without payment_system and pays
# them at once, and shows more of orders and payouts than is documented: what the
# examples and the regression tests print is then always the same.  It runs from
# a copy, so that a build meanwhile does not matter and the server's user can
# read it wherever the checkout lies.
start_sandbox()
{
	local log=$directory/sandbox.log ready=$directory/sandbox.ready turn options

	read -r -a options <<<"${TEGRO_SANDBOX_OPTIONS:-}"
	cp "$root/sandbox/tegro-sandbox" "$directory/tegro-sandbox"
	export TEGRO_SANDBOX_JOURNAL=$directory/journal
	export TEGRO_SHOP_ID=$shop_id TEGRO_API_KEY=$api_key
	export TEGRO_SECRET_KEY=$secret_key
	spawn TERM "$log" "$directory/tegro-sandbox" --listen 127.0.0.1 \
		--shop "$shop_id:$api_key:$secret_key" \
		--nonce unique --require none --rows full --payout-delay 0 \
		--journal "$TEGRO_SANDBOX_JOURNAL" --ready-file "$ready" \
		--parent-death "${options[@]}" "$@"
	sandbox_pid=$spawned
	export TEGRO_SANDBOX_PID=$sandbox_pid
	at_exit stop_sandbox
	for ((turn = 0; turn < 1200; turn++))
	do
		if [[ -s $ready ]]
		then
			TEGRO_SANDBOX_URL=$(<"$ready")
			export TEGRO_SANDBOX_URL
			return
		fi
		kill -0 "$sandbox_pid" 2>/dev/null || break
		sleep 0.05
	done
	show_end "$log"
	die 'the sandbox did not start'
}

stop_sandbox()
{
	kill "$sandbox_pid" 2>/dev/null || true
	if ! wait_for_end "$sandbox_pid"
	then
		warn 'the sandbox did not end within 10 s; killing it'
		kill -s KILL "$sandbox_pid"
	fi
}
