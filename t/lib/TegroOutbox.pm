package TegroOutbox;

# What the tests of the outbox share; see the POD at the end, or
# "perldoc t/lib/TegroOutbox.pm".

use strict;
use warnings;

use Cwd qw(abs_path);
use Digest::SHA;
use Exporter qw(import);
use Fcntl qw(:flock);
use File::Basename qw(dirname basename);
use File::Copy qw(copy);
use File::Path qw(make_path remove_tree);
use JSON::PP;
use POSIX ();
use Time::HiRes qw(sleep time);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TegroTest;

our @EXPORT = qw(
  outbox_cluster use_kill_points kill_at killed disarm
  ask is_lost enqueue row rows wait_for_row wait_for_end worker_pid processes
  crash_worker crash_server start_again wait_for_server wait_for_restart
  log_mark log_since state_of_process is_stopped
  check_outbox outbox_report enqueue_arguments executions LONG
);

# The short version of each test runs with all the others, the long one alone.
use constant LONG => $ENV{TEGRO_LONG} || $ENV{TEGRO_TEST_LONG} ? 1 : 0;

my $root = dirname(dirname(dirname(abs_path(__FILE__))));
my $main_pid = $$;

# Servers that a test crashed may have left processes that are stopped.
my @stopped;

END
{
	my $status = $?;

	kill('KILL', @stopped) if $$ == $main_pid && @stopped;
	$? = $status;
}


#
# The installation
#

# The files that the extension is built from, relative to the checkout.
sub sources
{
	my @files = map { glob "$root/$_" } qw(Makefile tegro.c tegro.control *.sql src/*/*.[ch] src/*/*/*.[ch]);

	return sort map { s{^\Q$root/\E}{}r } @files;
}

sub use_kill_points
{
	my @sources = sources();
	my $digest = Digest::SHA->new(256);
	my $parent = $PostgreSQL::Test::Utils::tmp_check;

	$digest->add($_)->addfile("$root/$_") foreach @sources;
	my $dir = abs_path($parent) . '/injection_points_' . substr($digest->hexdigest, 0, 12);
	make_path($dir);

	# several test programs may come at the same time: the first one builds
	open(my $lock, '>>', "$dir/lock") or die "could not open $dir/lock: $!";
	flock($lock, LOCK_EX) or die "could not lock $dir/lock: $!";
	build($dir, @sources) unless -s "$dir/bindir";
	close($lock);

	my $bindir = TegroTest::slurp("$dir/bindir");
	chomp $bindir;
	$ENV{PATH} = "$bindir:$ENV{PATH}" unless $ENV{PATH} =~ /^\Q$bindir\E:/;
	return $bindir;
}

# Builds a copy of the sources with injection points, and installs it in a private
# installation of PostgreSQL, by the same functions as the scripts.
sub build
{
	my ($dir, @sources) = @_;
	my $program = <<'END';
source "$1/script/lib.sh"
root=$2/tree directory=$2
find_postgresql || die 'no PostgreSQL found; set PG_CONFIG'
install_privately >&2
printf '%s\n' "$bindir"
END

	remove_tree("$dir/tree", "$dir/installation");
	foreach my $file (@sources)
	{
		make_path(dirname("$dir/tree/$file"));
		copy("$root/$file", "$dir/tree/$file") or die "could not copy $file: $!";
	}
	# what the make that runs us says to its own children is not for this one
	local %ENV = (%ENV, KILL_POINTS => 1, MAKEFLAGS => 'with_llvm=no');
	delete @ENV{qw(MAKELEVEL MFLAGS MAKEOVERRIDES DESTDIR)};
	my $bindir = TegroTest::must_run('bash', '-euo', 'pipefail', '-c', $program, 'bash', $root, $dir);
	TegroTest::spew("$dir/bindir", $bindir);
	remove_tree("$dir/tree");
	return;
}


#
# The server
#

sub outbox_cluster
{
	my ($name, $sandbox, %options) = @_;

	use_kill_points() if $options{kill_points} // 1;
	my $node = cluster(
		$name, $sandbox, %options,
		conf => join("\n",
			# the fence needs a lease that is longer than tegro.timeout by 2 s
			"tegro.claim_timeout = '4s'",
			"tegro.timeout = '1s'",
			"tegro.connect_timeout = '1s'",
			"tegro.review_after = '3s'",
			'restart_after_crash = on',
			'fsync = off',
			$options{conf} // ''));
	return $node;
}

sub kill_at
{
	my ($node, $point, $signal) = @_;
	my $file = $node->data_dir . '/tegro_kill';

	# whole at once: someone may be about to read it
	TegroTest::spew("$file.new", "$point " . ($signal // 'KILL') . "\n");
	rename("$file.new", $file) or die "could not rename $file.new: $!";
	return;
}

sub killed
{
	my ($node, $patience) = @_;
	my $file = $node->data_dir . '/tegro_kill';

	return wait_until(sub { !-e $file }, $patience);
}

sub disarm
{
	my ($node) = @_;

	unlink($node->data_dir . '/tegro_kill');
	return;
}

# A session for each server that looks on, and comes back after a crash: to
# start psql for each look would take more time than all the rest.
my %onlookers;

# Whether a session lost its server: psql may have made another connection since.
sub is_lost
{
	my ($result) = @_;

	return $result->{lost}
	  || $result->{err} =~ /server closed the connection|connection to server was lost|^FATAL:/m;
}

sub ask
{
	my ($node, $sql) = @_;
	my $result;

	foreach (1 .. 2)
	{
		my $session = $onlookers{ $node->name } //= eval { session($node) } // last;

		$result = $session->query($sql);
		return $result unless is_lost($result);
		$session->close;
		delete $onlookers{ $node->name };
	}
	return $result // { out => '', err => 'no connection', sqlstate => '08001', lost => 1 };
}

# Waits until the server takes connections; says whether it does.
sub wait_for_server
{
	my ($node) = @_;

	return wait_until(
		sub {
			my $up = ask($node, 'SELECT 1')->{out} eq '1';
			sleep 0.05 unless $up;
			return $up;
		});
}

# The letter that /proc has for what a process does: T is stopped.
sub state_of_process
{
	my ($pid) = @_;

	open(my $file, '<', "/proc/$pid/stat") or return '';
	my $line = <$file> // '';
	close($file);
	return $line =~ /\) (\S)/ ? $1 : '';
}

# Waits until a process is stopped; says whether it is.
sub is_stopped
{
	my ($pid) = @_;

	push @stopped, $pid;
	return wait_until(sub { state_of_process($pid) eq 'T' });
}

# The processes of a server that are of some kind, without asking the server.
# Those of background workers carry the name that they were registered with.
sub processes
{
	my ($node, $kind) = @_;
	my $postmaster = $node->{_pid} // return;
	my @pids;

	opendir(my $dir, '/proc') or die "could not open /proc: $!";
	foreach my $pid (grep { /^\d+$/ } readdir $dir)
	{
		open(my $stat, '<', "/proc/$pid/stat") or next;
		my $line = <$stat> // '';
		close($stat);
		next unless $line =~ /\) (\S) (\d+) / && $2 == $postmaster && $1 ne 'Z';
		open(my $command, '<', "/proc/$pid/cmdline") or next;
		my $title = <$command> // '';
		close($command);
		push @pids, $pid if index($title, $kind) >= 0;
	}
	return sort { $a <=> $b } @pids;
}

# The delivery worker, once there is one.
sub worker_pid
{
	my ($node, $patience) = @_;
	my $pid;

	wait_until(sub { ($pid) = processes($node, 'tegro delivery worker'); defined $pid; },
		$patience);
	return $pid;
}

# How long a server's log is; what comes later is from here on.
sub log_mark
{
	my ($node) = @_;

	return -s $node->logfile // 0;
}

sub log_since
{
	my ($node, $mark) = @_;

	return substr(TegroTest::slurp($node->logfile), $mark);
}

# Waits until the server has noticed that one of its processes was killed, and
# is back.
sub wait_for_restart
{
	my ($node, $mark) = @_;

	wait_until(sub { log_since($node, $mark) =~ /all server processes terminated/; })
	  or die 'the server did not notice that a process was killed';
	wait_for_server($node) or die 'the server did not come back';
	return;
}

# Kills one process as nothing but kill -9 does.
sub crash_worker
{
	my ($node, $pid) = @_;
	my $mark = log_mark($node);

	kill('KILL', $pid // worker_pid($node) // die 'there is no worker to kill');
	wait_for_restart($node, $mark);
	return;
}

# Ends the server at once: "kill9" or "immediate".  What is stopped can't end
# by itself and is killed.
sub crash_server
{
	my ($node, $how) = @_;
	my @pids = ($node->{_pid}, processes($node, ''));

	if ($how eq 'kill9')
	{
		$node->kill9;
		# they see it by themselves, but not those that are stopped
		kill('KILL', grep { state_of_process($_) eq 'T' } @pids);
	}
	else
	{
		kill('KILL', grep { state_of_process($_) eq 'T' } @pids);
		$node->stop('immediate');
	}
	wait_until(sub { !grep { -d "/proc/$_" } @pids })
	  or die 'processes of the server are left';
	return;
}

# Starts it again.  One that was just being started when the postmaster died is
# on no list, and has a moment to end.
sub start_again
{
	my ($node) = @_;
	my $deadline = time + 20;

	until ($node->start(fail_ok => 1))
	{
		die 'the server does not start again' if time > $deadline;
		sleep 0.2;
	}
	return;
}


#
# Requests
#

my $json = JSON::PP->new->canonical;

# Puts a request in, by a session or a server; returns its number.
sub enqueue
{
	my ($where, $method, $reference, %more) = @_;
	my $sql = 'SELECT tegro_enqueue(' . enqueue_arguments($method, $reference, %more) . ')';
	my $result =
	  $where->isa('TegroTest::Session') ? $where->query($sql) : query($where, $sql);

	die "could not enqueue: $result->{err}" unless $result->{out} =~ /^(\d+)$/m;
	return $1;
}

sub enqueue_arguments
{
	my ($method, $reference, %more) = @_;

	my $params = $json->encode(
		{
			currency => 'RUB',
			amount => 10,
			$method eq 'createOrder'
			? (order_id => $reference)
			: (payment_id => $reference, account => '4111'),
			%more
		});
	$params =~ s/'/''/g;
	return "'$method', '$params'";
}

# Rows of the outbox that match a condition, as hashes, each with its attempts.
sub rows
{
	my ($node, $where) = @_;
	$where //= 'true';
	my $result = ask($node, <<"END");
SELECT coalesce(jsonb_agg(to_jsonb(o) || jsonb_build_object('tries',
       (SELECT coalesce(jsonb_agg(to_jsonb(a) - 'raw_answer' - 'body_sha256' ORDER BY a.claim_no), '[]')
          FROM tegro_event a WHERE a.outbox_id = o.id AND a.event = 'send')) ORDER BY o.id), '[]')
  FROM tegro_outbox o WHERE $where
END

	die "could not read the outbox: $result->{err}" if $result->{out} eq '';
	return @{ $json->decode($result->{out}) };
}

sub row
{
	my ($node, $reference) = @_;
	my ($row) = rows($node, "reference = '$reference'");

	return $row;
}

# Waits until a row has one of some states; returns the row as it is then.
sub wait_for_row
{
	my ($node, $reference, @states) = @_;
	my $row;

	wait_until(
		sub {
			$row = row($node, $reference);
			my $found = $row && grep { $_ eq $row->{state} } @states;
			sleep 0.05 unless $found;
			return $found;
		});
	return $row;
}

# Waits until nothing is on its way any more.
sub wait_for_end
{
	my ($node, $patience) = @_;

	return wait_until(
		sub {
			my $ended = ask($node,
				"SELECT count(*) FROM tegro_outbox WHERE state IN ('ready', 'sending', 'unknown')")
			  ->{out} eq '0';
			sleep 0.1 unless $ended;
			return $ended;
		},
		$patience // 120);
}

# How often each reference was executed, by "method reference".
sub executions
{
	my ($sandbox) = @_;
	my %executions;

	foreach my $line ($sandbox->journal(executed => 1))
	{
		my $name = $line->{method} eq 'createOrder' ? 'order_id' : 'payment_id';

		$executions{"$line->{method} $line->{params}{$name}"}++;
	}
	return \%executions;
}

# Runs script/check-outbox; returns whether all is well, and what it prints.
sub outbox_report
{
	my ($node, @arguments) = @_;
	my ($out, $err) = ('', '');

	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'postgres');
	my $ok = IPC::Run::run([ "$root/script/check-outbox", @arguments ],
		'<', \undef, '>', \$out, '2>', \$err);
	return ($ok, $out . $err);
}

sub check_outbox
{
	my ($node, $sandbox, $name, @arguments) = @_;
	my ($ok, $report) = outbox_report($node, '--sandbox', $sandbox->url,
		'--journal', $sandbox->{journal}, @arguments);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($ok, $name) or diag($report);
	return $report;
}

1;

=pod

=head1 NAME

TegroOutbox - what the tests of the outbox share

=head1 SYNOPSIS

  use lib 't/lib';
  use TegroTest;
  use TegroOutbox;

  my $sandbox = sandbox();
  my $node = outbox_cluster('main', $sandbox);

  kill_at($node, 'after claim commit');
  enqueue($node, 'createWithdrawal', 'W1');
  killed($node);
  wait_for_server($node);
  is(wait_for_row($node, 'W1', 'review')->{state}, 'review', 'a person decides');
  check_outbox($node, $sandbox, 'nothing was lost or paid twice');

=head1 DESCRIPTION

It stands on TegroTest.

=head2 The server

=over

=item use_kill_points()

Builds the extension with injection points (src/base/injection.h), installs it in a
private installation of PostgreSQL, and puts that at the front of PATH.  The
installation is made once for a state of the sources, in the directory that the
tests of a run share (TESTDATADIR), and goes with it.

=item outbox_cluster(NAME, SANDBOX, conf => TEXT, ...)

What TegroTest's C<cluster> makes, in that installation, with leases and
timeouts that are short: claim timeout 4 s, timeout 1 s, review after 3 s.  With
C<< kill_points => 0 >> the extension is the one that is installed, which takes no
time to build.

=item kill_at(NODE, POINT, SIGNAL)

Arms a injection point: the next process that passes it sends itself SIGNAL (KILL,
STOP or TERM; default KILL).  C<killed(NODE, SECONDS)> waits for that and says
whether it happened; C<disarm(NODE)> takes it back.

=item processes(NODE, KIND), worker_pid(NODE, SECONDS), state_of_process(PID)

The server's processes with KIND in their title, and its delivery worker, once
there is one, both without asking the server; what a process does, as /proc has
it (C<T> is stopped).

=item crash_worker(NODE, PID)

Kills a process of the server (default: the delivery worker) with SIGKILL, and
waits until the server, which then restarts all, takes connections again.

=item crash_server(NODE, HOW)

Ends the whole server: HOW is C<kill9> (the postmaster is killed) or
C<immediate> (pg_ctl stop -m immediate).  C<start_again(NODE)> starts it again.

=item wait_for_server(NODE), wait_for_restart(NODE, MARK)

Wait until the server takes connections; and, before that, until it has noticed
that one of its processes was killed after C<log_mark(NODE)> was MARK.

=item log_mark(NODE), log_since(NODE, MARK)

The length of the server's log, and what was written to it since.

=item is_stopped(PID)

Waits until the process is stopped, by a injection point; says whether it is.  It is
killed when the test ends, if it is still there.

=back

=head2 Requests

=over

=item enqueue(NODE or SESSION, METHOD, REFERENCE, PARAM => VALUE, ...)

Puts a request in; returns its number.  C<enqueue_arguments(METHOD, REFERENCE,
...)> are the arguments of that call to tegro_enqueue, as SQL.

=item ask(NODE, SQL)

What TegroTest's C<query> does, in a session that stays, and that comes back
after a crash.

=item is_lost(RESULT)

Whether a session lost its server while it ran what has this result.

=item rows(NODE, CONDITION), row(NODE, REFERENCE)

Rows of the outbox as hashes, with C<tries>, their attempts.

=item wait_for_row(NODE, REFERENCE, STATE, ...)

Waits until the row is in one of the STATEs, but not for ever; returns it.

=item wait_for_end(NODE, SECONDS)

Waits until no row is ready, sending or unknown; says whether it came to that.

=item executions(SANDBOX)

How often each request was executed: a hash with keys like "createOrder A1".

=item check_outbox(NODE, SANDBOX, NAME, ARGUMENT, ...)

Holds the sandbox's journal against the outbox, with script/check-outbox: a test
of that NAME.  Returns the report.

=item outbox_report(NODE, ARGUMENT, ...)

Runs script/check-outbox with these arguments; returns whether all is well, and
the report.

=back

C<LONG> is true where the long version of a test was asked for, by TEGRO_LONG=1
or C<script/test --long>.

=cut
