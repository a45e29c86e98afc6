#
# A storm: sessions enqueue and pay while processes of the server are killed at
# random and the provider misbehaves; and ten thousand transactions of which
# half roll back.
#
# Each session notes what it has committed.  Once all has settled, every one of
# those must be on record and done, failed or in review, and the sandbox's
# journal must agree with the outbox: nothing lost, no payout made twice,
# nothing sent that was not committed (script/check-outbox).
#
# "fault N" at the head of a subtest is the fault it shows: 23, the
# rounds of kill -9; 24, the transactions.  The short version has 8 rounds and
# 2,000 transactions, the long one (TEGRO_LONG=1) 200 and 10,000.  What is drawn
# by lot follows from a seed, which is printed; TEGRO_SEED sets it.
#
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use JSON::PP;
use Test::More;
use TegroTest;
use TegroOutbox;
use Time::HiRes qw(sleep time);

use constant ROUNDS => $ENV{TEGRO_ROUNDS} || (LONG ? 200 : 8);
use constant TRANSACTIONS => LONG ? 10_000 : 2_000;
use constant CLIENTS => 6;

my $seed = $ENV{TEGRO_SEED} || int(time) % 1_000_000;
my $json = JSON::PP->new->canonical;
my $begun = time;
srand($seed);
note("TEGRO_SEED=$seed");

sub any_of { return $_[ rand @_ ]; }
sub chance { return rand() < $_[0]; }

my $sandbox = sandbox();
my $node = outbox_cluster(
	'storm', $sandbox,
	conf => "max_prepared_transactions = 30\nmax_connections = 40\nmax_worker_processes = 12");

# What is known to be committed: lines "method TAB reference".
my $committed_file = TegroTest::scratch() . '/committed';
my %committed;

sub write_committed
{
	TegroTest::spew($committed_file, join('', map { "$_\n" } sort keys %committed));
	return;
}


#
# 23: the storm
#

# A client is a session with one piece of work at a time.  "committed" is what
# is on record if the piece ends without an error.
my @clients;
my $serial = 0;
my @payouts;    # that were asked for, to ask for again

sub connect_client
{
	my ($client) = @_;

	$client->{session}->close if $client->{session};
	$client->{session} = eval { session($node) };
	$client->{busy} = 0;
	return defined $client->{session};
}

sub one_of_each
{
	my ($method, $list) = @_;
	my $reference = ($method eq 'createOrder' ? 'o' : 'p') . ++$serial;

	push @$list, "$method\t$reference";
	return 'SELECT tegro_enqueue(' . enqueue_arguments($method, $reference, amount => 1 + $serial % 7) . ');';
}

# A piece of work: SQL, and what it commits.
sub piece_of_work
{
	my @is;
	my @dropped;
	my $kind = rand();
	my $method = sub { return any_of('createOrder', 'createWithdrawal'); };

	if ($kind < 0.35)
	{
		my $sql = 'BEGIN;';

		$sql .= one_of_each($method->(), \@is) foreach 1 .. 1 + rand 4;
		if (chance(0.5))
		{
			$sql .= 'SAVEPOINT s;' . one_of_each($method->(), \@dropped) . 'ROLLBACK TO s;';
			$sql .= one_of_each($method->(), \@is) if chance(0.5);
		}
		return ("$sql ROLLBACK;") if chance(0.3);
		return ("$sql COMMIT;", \@is);
	}
	if ($kind < 0.45)
	{
		my $count = 30;
		my $first = $serial + 1;

		$serial += $count;
		push @is, map { "createOrder\to$_" } $first .. $serial;
		return (
			"SELECT tegro_enqueue('createOrder', jsonb_build_object('order_id', 'o' || n,"
			  . " 'amount', 1, 'currency', 'RUB')) FROM generate_series($first, $serial) n;",
			\@is);
	}
	if ($kind < 0.55)
	{
		my $sql = 'BEGIN;' . one_of_each($method->(), \@is) . one_of_each($method->(), \@is);
		my $name = "two-phase-$serial";

		return ("$sql PREPARE TRANSACTION '$name'; COMMIT PREPARED '$name';", \@is);
	}
	if ($kind < 0.62)
	{
		return ('CALL tegro_deliver(' . int(1 + rand 20) . ');');
	}

	# a payout that the session waits for; some again
	my $reference = @payouts && chance(0.3) ? any_of(@payouts) : 'w' . ++$serial;
	my %params = (payment_id => $reference, amount => 3, currency => 'RUB', account => '4111');

	push @payouts, $reference;
	my $sql = q{SELECT tegro_create_withdrawal('} . $json->encode(\%params) . q{');};
	$sql = "BEGIN; $sql ROLLBACK;" if chance(0.2);
	$sql = 'SET statement_timeout = ' . int(rand 500) . "; $sql RESET statement_timeout;" if chance(0.1);
	return ($sql, ["createWithdrawal\t$reference"], 'payout');
}

# Gives work to those that have none, and takes down what has ended.
sub work
{
	my ($seconds) = @_;
	my $until = time + $seconds;

	while (time < $until)
	{
		foreach my $client (@clients)
		{
			if (!$client->{session})
			{
				connect_client($client) or next;
			}
			if ($client->{busy} && $client->{session}->poll(0))
			{
				finish_work($client);
			}
			next if $client->{busy} || !$client->{session};
			@{$client}{qw(sql is kind)} = piece_of_work();
			$client->{session}->send($client->{sql});
			$client->{busy} = 1;
		}
		sleep 0.005;
	}
	return;
}

my %seen;

sub finish_work
{
	my ($client) = @_;
	my $result = $client->{session}->wait;
	my $sqlstate = is_lost($result) ? 'lost' : $result->{sqlstate};

	$client->{busy} = 0;
	$seen{$sqlstate || 'fine'}++;
	# a payout is on record too where its outcome is not known yet, or a refusal
	my $is_on_record = $sqlstate eq ''
	  || ($client->{kind} // '') eq 'payout' && $sqlstate =~ /^TG00[135]$/
	  && $result->{message} !~ /the worker for the payout/;
	if ($is_on_record)
	{
		$committed{$_} = 1 foreach @{ $client->{is} // [] };
	}
	if ($sqlstate eq 'lost')
	{
		$client->{session}->close;
		$client->{session} = undef;
	}
	else
	{
		# an error may have left a transaction open
		$client->{session}->query('ROLLBACK') if $sqlstate ne '';
	}
	return;
}

# How the provider misbehaves, each for a few requests.
my @misbehaviours = (
	[ 'close_before_read' ],
	[ 'close_after_read' ],
	[ 'execute_then_close' ],
	[ 'reset' ],
	[ 'hold', sub { (ms => int rand 2500) } ],
	[ 'execute_then_hold', sub { (ms => int rand 2500) } ],
	[ 'execute_later', sub { (ms => int rand 2000) } ],
	[ 'cut', sub { (bytes => int rand 40) } ],
	[ 'answer', sub { (status => 502, body => '<html>bad gateway</html>', executed => chance(0.5)
			  ? JSON::PP::true : JSON::PP::false) } ],
	[ 'answer', sub { (status => 429, headers => { 'Retry-After' => '1' }, body => '') } ]);

sub misbehave
{
	foreach (1 .. 6)
	{
		my ($action, $more) = @{ any_of(@misbehaviours) };
		my $method = any_of(qw(createOrder createOrder createWithdrawal createWithdrawal order withdrawal));
		my %more = $more ? $more->() : ();

		# only what changes something executes
		delete $more{executed} unless $method =~ /^create/;
		$sandbox->fault($method, $action, skip => int(rand 8), times => 1 + int(rand 3), %more);
	}
	return;
}

my @points = (
	'before claim commit',
	'after claim commit',
	'request ready',
	'answer read',
	'before payout commit',
	'after payout commit',
	'before payout settle');

# Lets those go on that a injection point has stopped.
sub continue_stopped
{
	kill('CONT', grep { state_of_process($_) eq 'T' } processes($node, 'tegro'));
	return;
}

# Waits until a kill has had its effect, if it has one, and the server is back.
sub recover
{
	my ($mark) = @_;

	if (wait_until(sub { log_since($node, $mark) =~ /all server processes terminated/; }, 8))
	{
		disarm($node);
	}
	continue_stopped();
	wait_for_server($node) or die 'the server did not come back';
	return;
}

# One of the ways to die; returns its name.
sub strike
{
	my $mark = log_mark($node);
	my $what = any_of('worker', 'worker', 'payout', 'backend', 'postmaster', 'immediate', 'point', 'point', 'stop');

	if ($what eq 'worker' || $what eq 'payout')
	{
		my ($pid) = processes($node, $what eq 'worker' ? 'tegro delivery worker' : 'tegro payout');

		return "$what (none)" unless $pid;
		kill('KILL', $pid);
		recover($mark);
	}
	elsif ($what eq 'backend')
	{
		my %alive = map { ($_ => 1) } processes($node, '');
		my @pids = grep { $alive{$_} } map { $_->{session} ? $_->{session}->pid : () } @clients;

		return 'backend (none)' unless @pids;
		kill('KILL', any_of(@pids));
		recover($mark);
	}
	elsif ($what eq 'postmaster' || $what eq 'immediate')
	{
		crash_server($node, $what eq 'postmaster' ? 'kill9' : 'immediate');
		disarm($node);
		start_again($node);
	}
	else
	{
		my $point = any_of(@points);
		my $signal = $what eq 'stop' ? 'STOP' : any_of('KILL', 'KILL', 'TERM');

		kill_at($node, $point, $signal);
		work(1.5);
		my $passed = !-e $node->data_dir . '/tegro_kill';
		disarm($node);
		$what = "$signal $point" . ($passed ? '' : ' (not passed)');
		if ($signal eq 'STOP')
		{
			# some return within their lease, some after it
			work(any_of(0.5, 5));
			continue_stopped();
		}
		elsif ($signal eq 'KILL' && $passed)
		{
			recover($mark);
		}
	}
	return $what;
}

subtest 'fault 23: kill -9 at random, under load' => sub {
	my %struck;

	@clients = map { { session => undef, busy => 0 } } 1 .. CLIENTS;
	foreach my $round (1 .. ROUNDS)
	{
		misbehave();
		work(0.3 + rand 1);
		my $what = strike();
		$struck{$what}++;
		note(sprintf('%.0f s: round %d: %s', time - $begun, $round, $what));
	}

	# the end: the provider behaves, and all come to an end
	$sandbox->clear_faults;
	disarm($node);
	continue_stopped();
	wait_for_server($node) or die 'the server did not come back';
	my $until = time + 120;
	while (time < $until && grep { $_->{busy} } @clients)
	{
		foreach my $client (grep { $_->{busy} && $_->{session} } @clients)
		{
			finish_work($client) if $client->{session}->poll(0.01);
		}
	}
	is(scalar(grep { $_->{busy} } @clients), 0, 'no session hangs');
	$_->{session}->close foreach grep { $_->{session} } @clients;
	foreach my $name (split(/\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts')))
	{
		$node->safe_psql('postgres', "COMMIT PREPARED '$name'");
	}
	enqueue($node, 'createOrder', 'last');
	$committed{"createOrder\tlast"} = 1;

	ok(wait_for_end($node, LONG ? 600 : 120), 'all comes to an end')
	  or diag(explain([ rows($node, "state IN ('ready', 'sending', 'unknown')") ]));
	write_committed();
	note(scalar(keys %committed) . ' requests are known to be committed');
	note(join(', ', map { "$_: $seen{$_}" } sort keys %seen));
	cmp_ok(scalar(keys %committed), '>', 10 * ROUNDS, 'there was some load');
	my $report = check_outbox($node, $sandbox,
		'nothing was lost, no payout was made twice, and the outbox agrees with the provider',
		'--committed', $committed_file);
	note($report);
	is(
		$node->safe_psql('postgres',
			"SELECT count(*) FROM tegro_outbox WHERE state NOT IN ('accepted', 'refused', 'review')"),
		'0',
		'every request is done, failed or in review');
	unlike(TegroTest::slurp($node->logfile), qr/terminated by signal (?:6|11)|PANIC|TRAP/,
		'no process crashed by itself');
};


#
# 24: transactions
#

subtest 'fault 24: what commits is executed, what rolls back is not' => sub {
	my $clients = 4;
	my (%expected, %rolled_back);
	my $number = 0;
	my @scripts;

	# no worker stays: it is started and ends again and again
	$node->append_conf('postgresql.conf', 'tegro.worker_idle_timeout = 0');
	reload_conf($node);

	my $put = sub {
		my ($list) = @_;
		my $method = any_of('createOrder', 'createWithdrawal');
		my $reference = ($method eq 'createOrder' ? 'to' : 'tp') . ++$number;

		push @$list, "$method $reference";
		return 'SELECT tegro_enqueue(' . enqueue_arguments($method, $reference, amount => 1) . ");\n";
	};
	foreach my $client (1 .. $clients)
	{
		my $sql = '';

		foreach my $transaction (1 .. TRANSACTIONS / $clients)
		{
			my @kept;
			my @lost;

			$sql .= "BEGIN;\n" . $put->(\@kept);
			if ($transaction % 3 == 0)
			{
				$sql .= "SAVEPOINT a;\n" . $put->(\@lost) . "ROLLBACK TO a;\n";
				$sql .= "SAVEPOINT b;\n" . $put->(\@kept) . "RELEASE b;\n" if $transaction % 2;
				$sql .= "SAVEPOINT c;\n" . $put->(\@lost) . "SAVEPOINT d;\n" . $put->(\@lost)
				  . "RELEASE d;\nROLLBACK TO c;\n" if $transaction % 5 == 0;
			}
			if (int($transaction / 2) % 2)
			{
				$sql .= "COMMIT;\n";
				$expected{$_} = 1 foreach @kept;
			}
			else
			{
				$sql .= "ROLLBACK;\n";
				push @lost, @kept;
			}
			$rolled_back{$_} = 1 foreach @lost;
		}
		push @scripts, TegroTest::spew(TegroTest::scratch() . "/client$client.sql", $sql);
	}

	my @runs = map {
		IPC::Run::start([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', $_ ],
			'<', \undef, '>', '/dev/null', '2>', TegroTest::scratch() . '/errors')
	} @scripts;
	is(scalar(grep { !$_->finish } @runs), 0, TRANSACTIONS . ' transactions are run');
	ok(wait_for_end($node), 'all is delivered');

	my $executions = executions($sandbox);
	my %executed = map { ($_ => $executions->{$_}) } grep { / t[op]\d+$/ } keys %$executions;
	is(scalar(grep { !$executed{$_} } keys %expected), 0, 'no committed request is missing');
	is(scalar(grep { $executed{$_} } keys %rolled_back), 0, 'none that was rolled back was sent');
	is(scalar(grep { $_ != 1 } values %executed), 0, 'none was executed twice');
	is(scalar(keys %executed), scalar(keys %expected), 'the journal has what was committed');
	$committed{ $_ =~ s/ /\t/r } = 1 foreach keys %expected;
	write_committed();
	check_outbox($node, $sandbox, 'the outbox agrees with the provider',
		'--committed', $committed_file);
};

subtest 'fault 24: a commit wakes a worker that is about to end' => sub {
	my $session = session($node);
	my $slow = 0;

	foreach my $turn (1 .. (LONG ? 500 : 50))
	{
		my $id = enqueue($session, 'createOrder', "wake-$turn");
		my $result = $session->query("SELECT tegro_wait($id, '60 s')");

		# another worker would be asked for only after 5 s
		$slow++ if $result->{sqlstate} ne '' || own_ms($result) > 4000;
		sleep rand(0.03);
	}
	is($slow, 0, 'every request is delivered at once, though no worker stays');
	$session->close;
};


#
# The checker
#

subtest 'script/check-outbox finds what is wrong' => sub {
	my @lines = split(/\n/, TegroTest::slurp($sandbox->{journal}));
	my $journal = TegroTest::scratch() . '/changed';
	my $find = sub {
		my ($method) = @_;

		return grep { $lines[$_] =~ /"method":"$method".*"verdict":"success".*"executed":true/ } 0 .. $#lines;
	};
	my ($order) = $find->('createOrder');
	my ($payout) = $find->('createWithdrawal');
	my $check = sub {
		my ($name, $expected, @changed) = @_;

		TegroTest::spew($journal, join('', map { "$_\n" } @changed));
		my ($ok, $report) = outbox_report($node, '--journal', $journal);
		ok(!$ok, "$name: it fails");
		like($report, qr/^ *[1-9]\d*  \Q$expected\E$/m, "$name: and says why");
	};

	my ($ok, $report) = outbox_report($node, '--journal', $sandbox->{journal});
	ok($ok, 'it passes what is right') or diag($report);
	$check->('a line is missing', 'done, and never executed', grep { $_ ne $lines[$payout] } @lines);
	$check->('a payout is there twice', 'payout executed twice or more', @lines, $lines[$payout]);
	$check->('an order is there twice', 'order executed twice or more', @lines, $lines[$order]);
	$check->('a request is there twice', 'request that came twice', @lines, $lines[$order]);
	$check->(
		'an unknown payout', 'executed, and not on record',
		@lines, $lines[$payout] =~ s/(payment_id\\":\\")/$1not-/r);
	$check->(
		'another body', 'request without an attempt on record',
		map { $_ eq $lines[$payout] ? s/RUB/USD/r : $_ } @lines);
	TegroTest::spew($committed_file, "createOrder\tnever\n");
	($ok, $report) = outbox_report($node, '--journal', $sandbox->{journal}, '--committed', $committed_file);
	ok(!$ok, 'a committed request is missing: it fails');
	like($report, qr/^ *1  committed, and not on record$/m, 'and says why');

	my %changes = (
		"UPDATE tegro_outbox SET state = 'refused' WHERE state = 'accepted' AND attempts = 1" => 'failed or cancelled, and executed',
		"UPDATE tegro_outbox SET state = 'ready' WHERE method = 'createWithdrawal' AND state = 'accepted'" => 'payout executed, and about to be sent',
		"UPDATE tegro_event SET outcome = 'not sent' WHERE outcome = 'answered'" => 'attempt "not sent", and it came',
		"UPDATE tegro_event SET outcome = 'refused' WHERE outcome = 'answered'" => 'attempt refused, and executed',
		'DELETE FROM tegro_event' => 'request without an attempt on record',
		"UPDATE tegro_outbox SET attempts = 99 WHERE reference = 'last'" => 'number of attempts that disagrees');
	set_delivery('off');
	foreach my $change (sort keys %changes)
	{
		# what is changed is put back
		$node->safe_psql('postgres',
			'CREATE TABLE o AS TABLE tegro_outbox; CREATE TABLE a AS TABLE tegro_event;' . $change);
		($ok, $report) = outbox_report($node, '--journal', $sandbox->{journal});
		ok(!$ok, "$changes{$change}: it fails");
		like($report, qr/^ *[1-9]\d*  \Q$changes{$change}\E$/m, 'and says why');
		$node->safe_psql('postgres', <<'END');
DELETE FROM tegro_outbox; DELETE FROM tegro_event;
INSERT INTO tegro_outbox OVERRIDING SYSTEM VALUE TABLE o; INSERT INTO tegro_event TABLE a;
DROP TABLE o, a;
END
	}
};

sub set_delivery
{
	my ($value) = @_;

	$node->append_conf('postgresql.conf', "tegro.delivery = $value");
	reload_conf($node);
	# none that goes by what it was is left: they don't stay here
	wait_until(sub { !processes($node, 'tegro delivery worker') }) or die 'a worker is left';
	return;
}

done_testing();
