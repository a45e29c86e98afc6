#
# Whatever dies, and when: what was committed is delivered, and no payout is
# made twice.
#
# The extension is built with injection points (src/base/injection.h): places at which the
# process that passes first kills or stops itself.  The provider is the sandbox;
# at the end of each part its journal, what it really did, is held against what
# the outbox says, by script/check-outbox.
#
# "fault N" at the head of a subtest is the fault it shows (see script/test):
#
#   1 to 6    the delivery worker is killed before its claim commits, after it,
#             when half of the body is out, when the request was carried out
#             and the answer is not there, when it is read and not committed,
#             and during a lookup
#   7         the same with the whole server
#   8         the same as 4 in a database with synchronous_commit = off
#   17, 18    a delivery worker that was stopped and returns; two for one row
#   19, 20    rollback, savepoints, two-phase commit, long transactions
#   21        the worker terminated, the extension or the database dropped, the
#             disk full, all during a send
#   22        synchronous payouts: the caller cancelled or gone, the worker
#             killed at each of its injection points, no worker to be had
#
# Faults 1 to 8 have a server and a sandbox each, since what is killed is the
# whole server, and it takes seconds until leases end and lookups are
# conclusive; the other parts run meanwhile.
#
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IO::Socket::IP;
use JSON::PP;
use Test::More;
use TegroTest;
use TegroOutbox;
use Time::HiRes qw(sleep time);

# tegro.claim_timeout of outbox_cluster(), and a little
use constant PAST_LEASE => 4.5;

my $json = JSON::PP->new->canonical;
my $begun = time;

sub note_time
{
	note(sprintf('%.0f s: %s', time - $begun, $_[0]));
	return;
}

sub part
{
	my ($name, $code) = @_;

	subtest($name, $code);
	note_time($name =~ s/:.*//r);
	return;
}

# An order and a payout, in one transaction, so that one claim takes both.
sub enqueue_both
{
	my ($node, $name, %more) = @_;
	my $session = session($node);

	$session->query('BEGIN');
	enqueue($session, 'createOrder', "order-$name", %more);
	enqueue($session, 'createWithdrawal', "payout-$name", %more);
	my $result = $session->query('COMMIT');
	$session->close;
	return $result;
}

# Requests, not executions, that came to a sandbox for a reference.
sub requests
{
	my ($sandbox, $reference) = @_;

	return grep {
		my $name = $_->{method} eq 'createOrder' ? 'order_id' : 'payment_id';

		!$_->{deferred}
		  && $_->{method} =~ /^create/
		  && ($_->{params}{$name} // '') eq $reference
	} $sandbox->journal;
}

sub executed
{
	my ($sandbox, $reference) = @_;
	my $executions = executions($sandbox);

	return ($executions->{"createOrder $reference"} // 0)
	  + ($executions->{"createWithdrawal $reference"} // 0);
}

sub states
{
	my ($node) = @_;

	return { map { $_->{reference} => $_->{state} } rows($node) };
}


#
# 1 to 8: servers that die
#

# A provider that reads no more than half of a createOrder or createWithdrawal
# while the file $half is there, and else hands all on to the sandbox.
sub half_reader
{
	my ($sandbox, $half) = @_;

	return raw_server(
		sub {
			my ($socket) = @_;
			my ($bytes, $head_length, $length) = ('');

			until (defined $length && length $bytes >= $length)
			{
				sysread($socket, $bytes, 4096, length $bytes) or return;
				if (!defined $length && $bytes =~ /\r\n\r\n/)
				{
					$head_length = $+[0];
					$length = $head_length + ($bytes =~ /^content-length: *(\d+)\r$/mi ? $1 : 0);
				}
				if (defined $length && -e $half && $bytes =~ m{^POST /api/create}
					&& length $bytes >= $head_length + ($length - $head_length) / 2)
				{
					TegroTest::raw_note(half => length $bytes, of => $length);
					sleep 0.05 while -e $half;
					return;
				}
			}
			my $provider = IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => $sandbox->port)
			  or die "could not connect to the sandbox: $@";
			$bytes =~ s/\r\n\r\n/\r\nConnection: close\r\n\r\n/;
			print {$provider} $bytes;
			$provider->flush;
			print {$socket} $bytes while sysread($provider, $bytes, 65536);
		},
		small_buffer => 1);
}

# What both do that were executed, or were not.
my $found = { executed => 1, requests => 1, attempts => 1, state => 'accepted' };
my $sent_again = { executed => 1, requests => 1, attempts => 2, state => 'accepted' };
my $left_to_a_person = { executed => 0, requests => 0, attempts => 1, state => 'review' };

# For each fault: "point", the injection point at which it happens; or "until", which
# says whether it has come so far that the worker may be killed.  "prepare"
# runs before the requests are enqueued, "crashed" at once after the crash,
# "afterwards" when the server runs again.
# "states" are those that both may have after it.
my %faults = (
	1 => {
		what => 'before the claim commits',
		point => 'before claim commit',
		order => $found,
		payout => $found,
	},
	2 => {
		what => 'after the claim, before the send',
		point => 'after claim commit',
		states => qr/^(sending|unknown)$/,
		order => $sent_again,
		payout => $left_to_a_person,
	},
	3 => {
		what => 'half of the body sent',
		params => { map { ("filler$_" => 'x' x 1000) } 1 .. 400 },
		prepare => sub { TegroTest::spew($_[0]{half}, ''); },
		until => sub {
			my @notes = $_[0]{proxy}->notes;
			return 2 == grep { $_->{half} } @notes[ ($_[0]{notes} // 0) .. $#notes ];
		},
		# before the order can be sent again, which is read to its end then
		crashed => sub {
			unlink($_[0]{half});
			$_[0]{notes} = $_[0]{proxy}->notes;
		},
		states => qr/^(sending|unknown)$/,
		order => $sent_again,
		payout => $left_to_a_person,
	},
	4 => {
		what => 'executed, the answer not there yet',
		prepare => sub {
			$_[0]{sandbox}->fault($_, 'execute_then_hold', ms => 60_000)
			  foreach qw(createOrder createWithdrawal);
		},
		until => sub { return 2 == grep { $_->{executed} } new_journal($_[0]); },
		states => qr/^(sending|unknown)$/,
		order => $found,
		payout => $found,
	},
	5 => {
		what => 'the answer read and not committed',
		point => 'answer read',
		# both are executed before the first answer comes, and that in time
		conf => "tegro.timeout = '3s'\ntegro.claim_timeout = '6s'",
		prepare => sub {
			$_[0]{sandbox}->fault($_, 'execute_then_hold', ms => 1500)
			  foreach qw(createOrder createWithdrawal);
		},
		states => qr/^(sending|unknown)$/,
		order => $found,
		payout => $found,
	},
	6 => {
		what => 'during the lookup',
		prepare => sub {
			$_[0]{sandbox}->fault($_, 'close_after_read') foreach qw(createOrder createWithdrawal);
			$_[0]{sandbox}->fault($_, 'hold', ms => 60_000, times => -1)
			  foreach qw(order withdrawal);
		},
		until => sub {
			return 2 == keys %{ { map { ($_->{method} => 1) }
				  grep { $_->{method} =~ /^(order|withdrawal)$/ } new_journal($_[0]) } };
		},
		afterwards => sub { $_[0]{sandbox}->clear_faults; },
		states => qr/^unknown$/,
		order => { %$sent_again, requests => 2 },
		payout => { %$left_to_a_person, requests => 1 },
	},
	8 => {
		what => 'executed, in a database with synchronous_commit = off',
		# nothing but a commit that is flushed gets the log to disk
		conf => 'wal_writer_delay = 10s',
		database => 'SET synchronous_commit = off',
		prepare => sub {
			$_[0]{sandbox}->fault($_, 'execute_then_hold', ms => 60_000)
			  foreach qw(createOrder createWithdrawal);
		},
		until => sub { return 2 == grep { $_->{executed} } new_journal($_[0]); },
		states => qr/^(sending|unknown)$/,
		order => $found,
		payout => $found,
	});

# Lines of the journal since this round began.
sub new_journal
{
	my ($lane) = @_;
	my @lines = $lane->{sandbox}->journal;

	return @lines[ $lane->{mark} .. $#lines ];
}

# Each fault has its lane: a server with a sandbox.
sub open_lane
{
	my ($number) = @_;
	my $fault = $faults{$number};
	my $sandbox = sandbox();
	my %lane = (number => $number, fault => $fault, sandbox => $sandbox);
	my $conf = $fault->{conf} // '';

	if ($number == 3)
	{
		$lane{half} = TegroTest::scratch() . '/half';
		$lane{proxy} = half_reader($sandbox, $lane{half});
		$conf .= "\ntegro.api_url = '" . $lane{proxy}->url . "'\ntegro.max_request_size = '1MB'";
	}
	$lane{node} = outbox_cluster("fault_$number", $sandbox, conf => $conf);
	query($lane{node}, "ALTER DATABASE postgres $fault->{database}") if $fault->{database};
	return \%lane;
}

# The ways in which the whole server is killed.  In the short version each fault
# meets one of them, in the long one both.
my @ways = qw(kill9 immediate);
my @server_rounds = LONG ? (1 .. 2) : (1);

# How a fault is met in a round: the worker alone is killed, or the whole server.
sub way_of
{
	my ($lane, $round) = @_;

	return $round eq 'worker' ? 'worker' : $ways[ ($lane->{number} + $round) % @ways ];
}

# What is in review is looked up for a day more.  No more after this: such a
# lookup could pass the injection point that is meant for what comes now.
sub let_rest
{
	my ($node) = @_;

	wait_until(
		sub {
			ask($node, q{UPDATE tegro_outbox SET next_at = NULL WHERE state = 'review' AND next_at IS NOT NULL});
			return ask($node,
				'SELECT count(*) FROM tegro_outbox WHERE next_at IS NOT NULL OR claimed_until IS NOT NULL')->{out} eq '0';
		}) or die 'something is still on its way';
	return;
}

# The fault itself: the requests, the crash, the restart.
sub crash
{
	my ($lane, $round) = @_;
	my ($fault, $node, $sandbox) = @{$lane}{qw(fault node sandbox)};
	my $how = way_of($lane, $round);
	my $log = log_mark($node);
	my %seen;

	let_rest($node);
	$lane->{mark} = scalar(my @all = $sandbox->journal);
	kill_at($node, $fault->{point}, $how eq 'worker' ? 'KILL' : 'STOP') if $fault->{point};
	$fault->{prepare}->($lane) if $fault->{prepare};
	enqueue_both($node, $round, %{ $fault->{params} // {} });

	# until it is where it should die
	my $worker = $how eq 'worker' && $fault->{point} ? undef : worker_pid($node);
	$seen{met} =
	  $fault->{point}
	  ? killed($node) && (!defined $worker || is_stopped($worker))
	  : wait_until(sub { $fault->{until}->($lane) });
	$seen{requests} = grep { $_->{method} =~ /^create/ } new_journal($lane);

	if ($how ne 'worker')
	{
		crash_server($node, $how);
		$fault->{crashed}->($lane) if $fault->{crashed};
		start_again($node);
	}
	elsif ($fault->{point})
	{
		wait_for_restart($node, $log);
	}
	else
	{
		crash_worker($node, $worker);
	}
	$seen{states} = states($node);
	$seen{attempts} =
	  { map { $_->{reference} => scalar @{ $_->{tries} } } rows($node, "reference LIKE '%-$round'") };
	$fault->{crashed}->($lane) if $fault->{crashed} && $how eq 'worker';
	$fault->{afterwards}->($lane) if $fault->{afterwards};
	$lane->{$round} = \%seen;
	return;
}

# What came of it, as tests.
sub check_crash
{
	my ($lane, $round) = @_;
	my ($fault, $node, $sandbox) = @{$lane}{qw(fault node sandbox)};
	my $seen = $lane->{$round};
	my %executions = %{ $lane->{executions} };
	my $how = way_of($lane, $round);

	ok($seen->{met}, "$how: the worker came so far");
	ok($seen->{ended}, "$how: delivery resumes by itself");
	foreach my $kind (qw(order payout))
	{
		my $reference = "$kind-$round";
		my $expected = $fault->{$kind};
		my $row = $lane->{rows}{$reference};
		my $method = $kind eq 'order' ? 'createOrder' : 'createWithdrawal';

		like($seen->{states}{$reference} // 'not there',
			$fault->{states} // qr/^(ready|sending|accepted)$/,
			"$how: the $kind is on record after the crash");
		is($seen->{attempts}{$reference} // 0, 1, "$how: and so is its attempt")
		  if $fault->{states};
		is($row->{state}, $expected->{state}, "$how: in the end the $kind is $expected->{state}")
		  or diag(explain($row));
		is($executions{"$method $reference"} // 0,
			$expected->{executed}, "$how: it was executed $expected->{executed} times");
		is(scalar(requests($sandbox, $reference)),
			$expected->{requests}, "$how: it was sent $expected->{requests} times");
		is($row->{attempts}, $expected->{attempts}, "$how: its attempts are counted");
		is(scalar(@{ $row->{tries} }), $expected->{attempts}, "$how: they are on record");
	}
	return;
}

# All faults go through a round together: their crashes one after another, then
# the wait until all has settled.
my @lanes = map { open_lane($_) } sort keys %faults;
note_time('servers are there');

sub begin_round
{
	my ($round) = @_;

	crash($_, $round) foreach @lanes;
	note_time("crashes of round $round are over");
	return;
}

sub end_round
{
	my ($round) = @_;

	$_->{$round}{ended} = wait_for_end($_->{node}) foreach @lanes;
	note_time("round $round has ended");
	return;
}


#
# The other faults
#

my $sandbox = sandbox();
my $node = outbox_cluster('main', $sandbox, conf => <<'END');
max_prepared_transactions = 10
wal_level = replica
max_wal_senders = 2
END

# Databases that are dropped have a server and a provider of their own: requests
# sent from them are on no record.
my $elsewhere = sandbox();
my $dropper = outbox_cluster('dropper', $elsewhere);

sub create_database
{
	my ($name) = @_;

	ask($dropper, "CREATE DATABASE $name");
	my $session = session($dropper, database => $name);
	$session->query('CREATE EXTENSION tegro');
	return $session;
}

# Without a worker: only sessions deliver.
my $alone_sandbox = sandbox();
my $alone = outbox_cluster('alone', $alone_sandbox,
	conf => "max_worker_processes = 0\nmax_connections = 40");

sub set_and_reload
{
	my ($where, %settings) = @_;

	$where->append_conf('postgresql.conf', "$_ = '$settings{$_}'") foreach sort keys %settings;
	reload_conf($where);
	# the worker has to see it, too
	sleep 0.3;
	return;
}

# A library that makes writes fail, as on a full disk, to files whose path has in
# it what is in the file that TEGRO_FULL names, while there is one.
sub full_disk
{
	my $dir = TegroTest::scratch();

	TegroTest::spew("$dir/full.c", do { local $/ = undef; <DATA> });
	TegroTest::must_run($ENV{CC} // 'cc', '-shared', '-fPIC', '-O1', '-o', "$dir/full.so",
		"$dir/full.c", '-ldl');
	return "$dir/full.so";
}

begin_round('worker');

part 'fault 17: a delivery worker that was stopped beyond its lease does no harm when it returns' => sub {
	# so that nothing else changes the rows while it returns
	set_and_reload($node, 'tegro.review_after' => '60s');
	kill_at($node, 'after claim commit', 'STOP');
	enqueue_both($node, '17');
	my $worker = worker_pid($node);
	ok(killed($node) && is_stopped($worker), 'the worker is stopped after its claim');
	my $claim = row($node, 'payout-17');
	is($claim->{state}, 'sending', 'which is committed');
	sleep PAST_LEASE;
	my $took_over = ask($node, 'CALL tegro_deliver()');
	is($took_over->{sqlstate}, '', 'another delivery worker takes over');
	is(row($node, "$_-17")->{state}, 'unknown', "the $_ is looked up") foreach qw(order payout);

	my %nonces = map { ($_->{tries}[0]{nonce} => 1) } rows($node, "reference LIKE '%-17'");
	kill('CONT', $worker);
	ok(
		wait_until(
			sub {
				return 2 == grep { ($_->{tries}[0]{outcome} // '') eq 'not sent' }
				  rows($node, "reference LIKE '%-17'");
			}),
		'the first one returns, and says that it sent nothing');
	# its word may settle what is in doubt, since nobody has sent since then
	like(row($node, "$_-17")->{state}, qr/^(unknown|ready|sending|accepted)$/, "it leaves the $_ to others")
	  foreach qw(order payout);

	# stopped once more, with the answer in its hands, not that of a lookup
	wait_until(sub { return 0 == rows($node, "reference LIKE '%-17' AND state IN ('ready', 'sending')") });
	ask($node, q{UPDATE tegro_outbox SET next_at = now() + interval '1 hour'
		WHERE reference LIKE '%-17' AND state = 'unknown'});
	kill_at($node, 'answer read', 'STOP');
	enqueue($node, 'createWithdrawal', 'payout-17-answered');
	$worker = worker_pid($node);
	ok(killed($node) && is_stopped($worker), 'a worker is stopped when it has read an answer');
	sleep PAST_LEASE;
	ask($node, 'CALL tegro_deliver()');
	my $settled = row($node, 'payout-17-answered');
	is($settled->{state}, 'accepted', 'another delivery worker finds out by lookup');
	kill('CONT', $worker);
	my $later;
	ok(
		wait_until(
			sub {
				$later = row($node, 'payout-17-answered');
				return ($later->{tries}[0]{outcome} // '') eq 'answered';
			}),
		'the answer is kept with the attempt');
	delete $_->{tries} foreach $settled, $later;
	is_deeply($later, $settled, 'and changes nothing');

	set_and_reload($node, 'tegro.review_after' => '3s');
	ask($node, q{UPDATE tegro_outbox SET next_at = now() WHERE reference = 'order-17' AND state = 'unknown'});
	ask($node, q{SELECT tegro_refresh(id) FROM tegro_outbox WHERE reference = 'payout-17'});

	# a payout that a session waits for, stopped until a person has it in review
	kill_at($node, 'after payout commit', 'STOP');
	my $caller = session($node);
	$caller->send('SELECT tegro_create_withdrawal('
		  . q{'{"payment_id": "W17", "amount": 5, "currency": "RUB", "account": "4111"}')});
	ok(killed($node), 'the worker of a payout is stopped after its claim');
	my ($payer) = processes($node, 'tegro payout');
	ok(is_stopped($payer), 'it is');
	is(wait_for_row($node, 'W17', 'review')->{state}, 'review', 'others leave it to a person');
	kill('CONT', $payer);
	my $result = $caller->wait;
	is($result->{sqlstate}, 'TG003', 'the caller is told that the outcome is unknown');
	$caller->close;
	# who has it in review may be paying it by hand
	sleep 2;
	is(row($node, 'W17')->{state}, 'review', 'what is in review is not sent by itself');
	is(scalar(requests($sandbox, 'W17')), 0, 'nothing of it came to the provider');

	ok(wait_for_end($node), 'all comes to an end');
	is(scalar(grep { exists $nonces{ $_->{nonce} // '' } } $sandbox->journal),
		0, 'of the requests that were stopped none was sent');
	foreach my $reference (qw(order-17 payout-17 payout-17-answered))
	{
		my $executed = executed($sandbox, $reference);

		cmp_ok(scalar(requests($sandbox, $reference)), '<=', 1, "$reference was sent at most once");
		is(row($node, $reference)->{state}, $executed ? 'accepted' : 'review',
			"the outbox says what came of it");
	}
	is(executed($sandbox, 'order-17'), 1, 'the order was made');
	check_outbox($node, $sandbox, 'the outbox agrees with the provider');
};

part 'fault 18: of two delivery workers one gets the row' => sub {
	my $times = LONG ? 1000 : 200;
	my $client = session($alone);
	my @workers = (session($alone), session($alone));
	my $taken = 0;

	foreach my $turn (1 .. $times)
	{
		enqueue($client, $turn % 2 ? 'createOrder' : 'createWithdrawal', "turn-$turn", amount => 1);
		$_->send('CALL tegro_deliver()') foreach @workers;
		my @results = map { $_->wait } @workers;
		last if grep { $_->{sqlstate} ne '' } @results and diag($results[0]{err}, $results[1]{err});
		$taken++;
	}
	is($taken, $times, 'both deliver, again and again');
	my @all = rows($alone, "reference LIKE 'turn-%'");
	is(scalar(@all), $times, 'all rows are there');
	is(scalar(grep { $_->{state} eq 'accepted' } @all), $times, 'all are done');
	is(scalar(grep { $_->{attempts} == 1 && @{ $_->{tries} } == 1 && $_->{claim_no} == 1 } @all),
		$times, 'each was claimed once');
	my $executions = executions($alone_sandbox);
	is(scalar(keys %$executions), $times, 'each was executed');
	is(scalar(grep { $_ != 1 } values %$executions), 0, 'and once');
	check_outbox($alone, $alone_sandbox, 'the outbox agrees with the provider');
	$_->close foreach $client, @workers;
};

part 'fault 17: a delivery worker that was stopped in a callback has not called it twice' => sub {
	$alone->safe_psql('postgres', <<'END');
CREATE TABLE called (reference text);
CREATE FUNCTION on_outcome(id bigint, state text, reference text, answer jsonb) RETURNS void
LANGUAGE sql AS $$ INSERT INTO public.called VALUES (reference); SELECT pg_sleep(1) $$;
END
	query($alone,
			'SELECT tegro_enqueue('
		  . enqueue_arguments('createOrder', 'order-callback')
		  . ", 'on_outcome'::regproc)");
	my $first = session($alone);
	$first->send('CALL tegro_deliver()');
	ok(
		wait_until(
			sub {
				return ask($alone, 'SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $first->pid)
				  ->{out} eq 'PgSleep';
			}),
		'a delivery worker is in a callback');
	kill('STOP', $first->pid);
	ok(is_stopped($first->pid), 'and is stopped there');
	sleep PAST_LEASE;
	is(query($alone, 'CALL tegro_deliver()')->{sqlstate}, '', 'another takes over and calls it');
	kill('CONT', $first->pid);
	$first->wait;
	$first->close;
	is(query($alone, 'SELECT count(*) FROM called')->{out}, '1', 'what it did stands once');
	is(row($alone, 'order-callback')->{callback_state}, 'done', 'and is on record');
};

end_round('worker');
begin_round($server_rounds[0]);

part 'fault 19: what is rolled back is not sent' => sub {
	my $session = session($node);
	my $before = () = $sandbox->journal;
	my $ask = sub {
		my ($name) = @_;

		enqueue($session, 'createOrder', "order-$name");
		enqueue($session, 'createWithdrawal', "payout-$name");
	};

	$session->query('BEGIN');
	$ask->('rolled-back');
	$session->query('ROLLBACK');

	$session->query('BEGIN; SAVEPOINT s');
	$ask->('to-savepoint');
	$session->query('ROLLBACK TO s; COMMIT');

	$session->query('BEGIN; SAVEPOINT s');
	$ask->('released');
	$session->query('RELEASE s; ROLLBACK');

	$session->query('BEGIN');
	$ask->('refused');
	is($session->query('SELECT 1 / 0')->{sqlstate}, '22012', 'a transaction fails');
	$session->query('COMMIT');

	$session->query('BEGIN');
	$ask->('prepared');
	is($session->query("PREPARE TRANSACTION 'p'")->{err}, '', 'one is prepared');
	ask($node, "ROLLBACK PREPARED 'p'");

	# a session that ends within its transaction
	my $other = session($node);
	$other->query('BEGIN');
	enqueue($other, 'createWithdrawal', 'payout-gone');
	$other->close;

	# what is enqueued later is delivered later, so nothing of it comes any more
	$ask->('kept');
	ok(wait_for_end($node), 'what is committed is delivered');
	is(row($node, "$_-kept")->{state}, 'accepted', "the $_ is done") foreach qw(order payout);
	my @lines = $sandbox->journal;
	my @new = @lines[ $before .. $#lines ];
	# an earlier payout that needs review may still be looked up
	is_deeply(
		[
			grep { /-(?:rolled-back|to-savepoint|released|failed|prepared|gone|kept)$/ }
			sort map { $_->{params}{order_id} // $_->{params}{payment_id} } @new
		],
		[ 'order-kept', 'payout-kept' ],
		'and nothing else of these came to the provider');
	$session->close;
	check_outbox($node, $sandbox, 'the outbox agrees with the provider');
};

part 'fault 20: what commits late is sent after it has' => sub {
	my $session = session($node);
	my $long = session($node);

	# a transaction that is open while others commit
	$long->query('BEGIN');
	enqueue($long, 'createOrder', 'order-long');
	enqueue($long, 'createWithdrawal', 'payout-long');

	$session->query('BEGIN');
	enqueue($session, 'createOrder', 'order-two-phase');
	enqueue($session, 'createWithdrawal', 'payout-two-phase');
	is($session->query("PREPARE TRANSACTION 'two-phase'")->{err}, '', 'a transaction is prepared');
	$session->close;

	my $until = time + (LONG ? 120 : 4);
	for (my $n = 0; time < $until; $n++)
	{
		enqueue($node, 'createOrder', "order-meanwhile-$n");
		sleep(LONG ? 5 : 0.5);
	}
	ok(
		wait_until(
			sub {
				return 0 == rows($node, "reference LIKE 'order-meanwhile-%' AND state <> 'accepted'");
			}),
		'others are delivered meanwhile');
	is(scalar(requests($sandbox, "order-$_") + requests($sandbox, "payout-$_")), 0, "$_ is not")
	  foreach qw(long two-phase);

	is($long->query('COMMIT')->{err}, '', 'the long transaction commits');
	is(ask($node, "COMMIT PREPARED 'two-phase'")->{err}, '',
		'another session commits the prepared one');
	$long->close;
	foreach my $reference (map { ("order-$_", "payout-$_") } qw(long two-phase))
	{
		is(wait_for_row($node, $reference, 'accepted')->{state}, 'accepted', "$reference is delivered");
		is(scalar(requests($sandbox, $reference)), 1, 'once');
	}
	check_outbox($node, $sandbox, 'the outbox agrees with the provider');
};

part 'fault 21: the worker is terminated during a send' => sub {
	# one is executed and has no answer yet, the other is still to be executed
	foreach my $action (qw(execute_then_hold hold))
	{
		$sandbox->fault($_, $action, ms => 2500) foreach qw(createOrder createWithdrawal);
		enqueue_both($node, "terminated-$action");
		my $worker = worker_pid($node);
		ok(
			wait_until(
				sub {
					return requests($sandbox, "order-terminated-$action")
					  && requests($sandbox, "payout-terminated-$action");
				}),
			"$action: both were sent");
		my $terminated = time;
		is(ask($node, "SELECT pg_terminate_backend($worker, 5000)")->{out}, 't',
			"$action: the worker ends");
		cmp_ok(own_ms($terminated), '<', 3000, "$action: soon");
		my %seen = %{ states($node) };
		like($seen{"$_-terminated-$action"}, qr/^(unknown|accepted)$/, "$action: the $_ is looked up")
		  foreach qw(order payout);
		ok(worker_pid($node), "$action: a worker is back by itself");
	}
	ok(wait_for_end($node), 'all comes to an end');
	foreach my $action (qw(execute_then_hold hold))
	{
		# a provider may carry out what it has, or notice that the client is gone
		my $executed = executed($sandbox, "payout-terminated-$action");

		is(scalar(requests($sandbox, "payout-terminated-$action")),
			1, "$action: the payout was sent once");
		is(row($node, "payout-terminated-$action")->{state},
			$executed ? 'accepted' : 'review',
			$executed ? 'it is done' : 'it was not carried out: a person decides');
		is(executed($sandbox, "order-terminated-$action"), 1, "$action: the order was made once");
		is(row($node, "order-terminated-$action")->{state}, 'accepted', 'it is done');
	}
	check_outbox($node, $sandbox, 'the outbox agrees with the provider');
};

part 'fault 21: the extension is dropped during a send' => sub {
	my $session = create_database('dropping');
	$elsewhere->fault('createWithdrawal', 'execute_then_hold', ms => 800);
	my $log = log_mark($dropper);
	enqueue($session, 'createWithdrawal', 'payout-dropped');
	ok(wait_until(sub { requests($elsewhere, 'payout-dropped') }), 'it was sent');
	my $dropped = $session->query('DROP EXTENSION tegro');
	is($dropped->{err}, '', 'DROP EXTENSION works');
	cmp_ok(own_ms($dropped), '<', 10_000, 'and does not hang');
	sleep 1.5;
	is($session->query('SELECT 1')->{out}, '1', 'the server runs on');
	unlike(log_since($dropper, $log), qr/PANIC|terminated by signal/, 'nothing crashed');
	is(scalar(requests($elsewhere, 'payout-dropped')), 1, 'it was sent once');

	# made anew, it works, by the same worker or another
	is($session->query('CREATE EXTENSION tegro')->{err}, '', 'CREATE EXTENSION works again');
	enqueue($session, 'createOrder', 'order-after-drop');
	ok(wait_until(sub { executed($elsewhere, 'order-after-drop') }), 'and so does delivery');

	# what was in flight under the old extension is not taken for what has its
	# number in the new one
	$elsewhere->fault('createWithdrawal', 'execute_then_hold', ms => 900);
	enqueue($session, 'createWithdrawal', 'payout-old');
	ok(wait_until(sub { requests($elsewhere, 'payout-old') }), 'a payout was sent');
	my $old = $session->query("SELECT id, lease FROM tegro_outbox WHERE reference = 'payout-old'");
	$session->query('DROP EXTENSION tegro; CREATE EXTENSION tegro');
	my ($id) = $old->{out} =~ /^(\d+)/;
	$session->query("ALTER TABLE tegro_outbox ALTER id RESTART WITH $id") if $id > 1;
	$elsewhere->fault('createWithdrawal', 'hold', ms => 60_000);
	enqueue($session, 'createWithdrawal', 'payout-new');
	my $new;
	wait_until(
		sub {
			$new = $session->query(
				q{SELECT state, answer FROM tegro_outbox WHERE reference = 'payout-new'})->{out};
			return $new !~ /^(ready|sending)/;
		});
	like($new, qr/^(unknown|review)\|$/,
		'the answer of the old payout is not taken for that of the new one, which has none yet');
	$session->close;
};

part 'fault 21: the database is dropped during a send' => sub {
	my $session = create_database('doomed');
	$elsewhere->fault('createWithdrawal', 'execute_then_hold', ms => 3000);
	my $log = log_mark($dropper);
	enqueue($session, 'createWithdrawal', 'payout-doomed');
	ok(wait_until(sub { requests($elsewhere, 'payout-doomed') }), 'it was sent');
	$session->close;
	my $dropped = ask($dropper, 'DROP DATABASE doomed WITH (FORCE)');
	is($dropped->{err}, '', 'DROP DATABASE works');
	cmp_ok(own_ms($dropped), '<', 20_000, 'and does not hang');
	# it would be started again after 5 s
	sleep 6.5;
	is( ask($dropper,
			q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tegro delivery worker'
			   AND (datname = 'doomed' OR datname IS NULL)})->{out},
		'0', 'no worker is left for it');
	my @failures = log_since($dropper, $log) =~ /FATAL:  database \d+ does not exist/g;
	cmp_ok(scalar(@failures), '<=', 1, 'and none is started again and again');
	unlike(log_since($dropper, $log), qr/PANIC|terminated by signal/, 'nothing crashed');
	is(scalar(requests($elsewhere, 'payout-doomed')), 1, 'it was sent once');
};

end_round($server_rounds[0]);
foreach my $round (@server_rounds[ 1 .. $#server_rounds ])
{
	begin_round($round);
	end_round($round);
}

part 'fault 21: the disk is full during a send' => sub {
	my $library = full_disk();
	my $flag = TegroTest::scratch() . '/full';
	my $provider = sandbox();
	my %environment = (
		LD_PRELOAD => join(':', $library, $ENV{LD_PRELOAD} // ()),
		TEGRO_FULL => $flag);
	my $full = outbox_cluster('full', $provider, environment => \%environment);
	my $count = 100;

	# no room for what is written of the answers
	$provider->fault($_, 'execute_then_hold', ms => 700, times => -1)
	  foreach qw(createOrder createWithdrawal);
	$full->safe_psql('postgres', <<"END");
SELECT tegro_enqueue('createOrder', jsonb_build_object('order_id', 'o' || n, 'amount', 1, 'currency', 'RUB')),
       tegro_enqueue('createWithdrawal', jsonb_build_object('payment_id', 'p' || n, 'amount', 1, 'currency', 'RUB', 'account', '1'))
  FROM generate_series(1, $count) n;
END
	ok(wait_until(sub { $provider->state->{data}{counts}{withdrawals} > 0 }), 'requests are sent');
	my $log = log_mark($full);
	TegroTest::spew($flag, '/base/');
	ok(wait_until(sub { log_since($full, $log) =~ /No space left on device/ }), 'the disk is full');
	sleep 2;
	is(ask($full, 'SELECT 1')->{out}, '1', 'the server runs on');
	unlink($flag);
	$provider->clear_faults;
	ok(wait_for_end($full), 'with room again all comes to an end');
	is_deeply(
		[ map { "$_->{reference} $_->{state}" } rows($full, "state <> 'accepted'") ],
		[], 'every request is done');
	is(scalar(grep { $_ != 1 } values %{ executions($provider) }), 0, 'nothing was executed twice');
	is(scalar(keys %{ executions($provider) }), 2 * $count, 'nothing is missing');
	check_outbox($full, $provider, 'the outbox agrees with the provider');

	# no room for the log: the server panics until there is
	$provider->fault($_, 'execute_then_hold', ms => 60_000) foreach qw(createOrder createWithdrawal);
	enqueue_both($full, 'wal');
	ok(wait_until(sub { executed($provider, 'payout-wal') && executed($provider, 'order-wal') }),
		'two requests are sent');
	$log = log_mark($full);
	TegroTest::spew($flag, '/pg_wal/');
	ok(wait_until(sub { log_since($full, $log) =~ /PANIC.*No space left on device/ }),
		'a full disk for the log brings the server down');
	sleep 1;
	unlink($flag);
	ok(wait_for_server($full), 'with room again it is back');
	enqueue($full, 'createOrder', 'order-after');
	ok(wait_for_end($full), 'all comes to an end');
	is(row($full, $_)->{state}, 'accepted', "$_ is done") foreach qw(order-wal payout-wal order-after);
	is(scalar(requests($provider, $_)), 1, "$_ was sent once") foreach qw(order-wal payout-wal);
	check_outbox($full, $provider, 'the outbox agrees with the provider');
	$full->stop;
};

# A payout that the session waits for.
sub pay
{
	my ($reference, %more) = @_;
	my %params = (
		payment_id => $reference, amount => 5, currency => 'RUB', account => '4111', %more);

	return q{SELECT tegro_create_withdrawal('} . $json->encode(\%params) . q{')};
}

part 'fault 22: the caller of a payout is cancelled, or gone' => sub {
	my %ways = (
		'cancelled' => sub { ask($node, "SELECT pg_cancel_backend($_[1])"); },
		'timed-out' => sub { },
		'terminated' => sub { ask($node, "SELECT pg_terminate_backend($_[1])"); },
		'client-gone' => sub { kill('KILL', $_[0]{psql}); },
		'rolled-back' => sub { ask($node, "SELECT pg_cancel_backend($_[1])"); });
	my %results;

	# no answer comes before the caller is gone, and yet each comes in time
	set_and_reload($node, 'tegro.claim_timeout' => '40s');
	foreach my $way (sort keys %ways)
	{
		my $session = session($node);

		$sandbox->fault('createWithdrawal', 'execute_then_hold', ms => 6000);
		$session->query(q{SET tegro.timeout = '20s'});
		$session->query('SET statement_timeout = 2000') if $way eq 'timed-out';
		$session->query('BEGIN') if $way eq 'rolled-back';
		$session->send(pay("W-$way"));
		ok(wait_until(sub { executed($sandbox, "W-$way") }), "$way: the payout is under way");
		$ways{$way}->($session, $session->pid);
		$results{$way} = $session->wait;
		$session->query('ROLLBACK') if $way eq 'rolled-back';
		$session->close;
	}
	foreach my $way (qw(cancelled timed-out rolled-back))
	{
		is($results{$way}{sqlstate}, '57014', "$way: the statement ends");
		like($results{$way}{detail}, qr/"W-$way" was handed over/, "$way: it says that the payout is not over");
	}
	is($results{terminated}{sqlstate}, '57P01', 'terminated: the session ends');
	ok(is_lost($results{'client-gone'}), 'client-gone: the session is lost');

	# all, so that their workers are gone when they are called again
	my %rows = map { ($_ => wait_for_row($node, "W-$_", 'accepted', 'refused', 'review')) } sort keys %ways;
	foreach my $way (sort keys %ways)
	{
		is($rows{$way}{state}, 'accepted', "$way: the payout is done");
		is(scalar(requests($sandbox, "W-$way")), 1, "$way: it was sent once");
		like(ask($node, pay("W-$way"))->{out}, qr/"type": "success"/,
			"$way: the same call again returns its outcome");
		is(scalar(requests($sandbox, "W-$way")), 1, "$way: and sends nothing");
	}
	set_and_reload($node, 'tegro.claim_timeout' => '4s');
	check_outbox($node, $sandbox, 'the outbox agrees with the provider');
};

part 'fault 22: a cancel at any time tells the truth' => sub {
	my $session = session($node);
	my (@cancelled, @answered, @refused);
	my %said = (
		# before it is handed over there is nothing to tell
		'57014' => qr/^$|was handed over, and may go on/,
		# those that were cancelled before may still have their workers
		'TG002' => qr/nothing was sent/,
		'' => qr/^$/);

	foreach my $ms (1 .. (LONG ? 100 : 30))
	{
		$session->query("SET statement_timeout = $ms");
		my $result = $session->query(pay("W-early-$ms"));
		push @{ { '57014' => \@cancelled, 'TG002' => \@refused, '' => \@answered }->{ $result->{sqlstate} } },
		  "W-early-$ms";
		like($result->{detail}, $said{ $result->{sqlstate} } // qr/never/, "$ms ms: \"$result->{sqlstate}\", and what follows");
	}
	$session->close;
	note(scalar(@cancelled) . ' were cancelled');
	cmp_ok(scalar(@cancelled), '>', 0, 'some were cancelled');
	# those whose callers were cancelled may still be about to begin
	my $seen = time;
	ok(
		wait_until(
			sub {
				sleep 0.02;
				$seen = time if processes($node, 'tegro payout');
				return time - $seen > 2;
			}),
		'the workers of payouts end');
	ok(wait_for_end($node), 'all comes to an end');
	is(join(' ', grep { executed($sandbox, $_) != 1 } @answered), '', 'what was answered was paid once');
	is(join(' ', grep { executed($sandbox, $_) > 0 } @refused), '', 'what had no worker was not paid');
	is(join(' ', grep { executed($sandbox, $_) > 1 } @cancelled), '', 'nothing was paid twice');
	is(join(' ', grep { my $row = row($node, $_); ($row ? $row->{state} : '') ne (executed($sandbox, $_) ? 'accepted' : '') } @cancelled),
		'', 'what was cancelled is done, or never began');
	check_outbox($node, $sandbox, 'the outbox agrees with the provider');
};

part 'fault 22: the worker of a payout dies' => sub {
	my @points = ('before payout commit', 'after payout commit', 'request ready', 'before payout settle');
	my %results;

	foreach my $point (@points)
	{
		foreach my $signal (qw(KILL TERM))
		{
			my $name = 'W-' . ($point =~ tr/ /-/r) . "-$signal";
			my $session = session($node);
			my $log = log_mark($node);

			kill_at($node, $point, $signal);
			$session->send(pay($name));
			ok(killed($node), "$name: its worker gets $signal");
			$results{$name} = $session->wait;
			wait_for_restart($node, $log) if $signal eq 'KILL';
			$session->close;
		}
	}
	# those that are not on record are sent by the same call
	foreach my $name (sort keys %results)
	{
		my $result = $results{$name};

		if ($name =~ /KILL/)
		{
			ok(is_lost($result), "$name: the server restarts");
		}
		else
		{
			like($result->{sqlstate}, qr/^(TG003|57P01|)$/, "$name: the caller is told");
			cmp_ok(own_ms($result), '<', 20_000, "$name: and does not hang");
		}
		$results{$name}{again} = ask($node, pay($name));
	}
	ok(wait_for_end($node), 'all comes to an end');
	foreach my $name (sort keys %results)
	{
		my $row = row($node, $name);
		my $again = ask($node, pay($name));
		my $executed = executed($sandbox, $name);

		cmp_ok(scalar(requests($sandbox, $name)), '<=', 1, "$name: it was sent at most once");
		is($row->{state}, $executed ? 'accepted' : 'review', "$name: the outbox says what came of it");
		is($again->{sqlstate}, $executed ? '' : 'TG003', "$name: so does the same call again");
		is($executed, 1, "$name: it is paid after all") if $name =~ /before-payout-(commit|settle)-KILL/;
		# ("request ready" may be passed first by a worker that looks another up)
		is($executed, 0, "$name: it was not paid") if $name =~ /after-payout-commit-KILL/;
	}
	check_outbox($node, $sandbox, 'the outbox agrees with the provider');
};

part 'fault 22: two sessions pay the same at once' => sub {
	my @sessions = (session($node), session($node));
	my $turns = LONG ? 200 : 20;
	my ($alike, $conflicts, $paid) = (0, 0, 0);

	foreach my $turn (1 .. $turns)
	{
		$_->send(pay("W-same-$turn")) foreach @sessions;
		my ($one, $other) = map { $_->wait } @sessions;
		$alike++ if $one->{out} =~ /"type": "success"/ && $one->{out} eq $other->{out};

		$sessions[$_]->send(pay("W-other-$turn", amount => 1 + $_)) foreach 0, 1;
		my @sqlstates = sort map { $_->wait->{sqlstate} } @sessions;
		$conflicts++ if "@sqlstates" eq ' TG007';
		$paid += executed($sandbox, "W-same-$turn") == 1 && executed($sandbox, "W-other-$turn") == 1;
	}
	is($alike, $turns, 'with the same parameters both get the same answer');
	is($conflicts, $turns, 'with different ones one of them is told');
	is($paid, $turns, 'each was paid once');

	# one that the session itself has enqueued and not committed
	$sessions[0]->query('BEGIN');
	enqueue($sessions[0], 'createWithdrawal', 'W-own', amount => 5);
	my $result = $sessions[0]->query(pay('W-own'));
	isnt($result->{sqlstate}, '', 'a payout that waits for the session itself is an error');
	cmp_ok(own_ms($result), '<', 10_000, 'and does not hang');
	$sessions[0]->query('ROLLBACK');
	is(scalar(requests($sandbox, 'W-own')), 0, 'it is not sent');
	$_->close foreach @sessions;
	check_outbox($node, $sandbox, 'the outbox agrees with the provider');
};

part 'fault 22: no worker is to be had' => sub {
	# none at all
	my $enqueued = query($alone, 'SELECT tegro_enqueue(' . enqueue_arguments('createOrder', 'order-warned') . ')');
	is($enqueued->{sqlstate}, '', 'a request is enqueued');
	like($enqueued->{err}, qr/WARNING:.*could not start the tegro delivery worker/, 'with a warning');
	like($enqueued->{err}, qr/CALL tegro_deliver/, 'and a hint');
	is(row($alone, 'order-warned')->{state}, 'ready', 'it is on record');
	is(query($alone, 'CALL tegro_deliver()')->{sqlstate}, '', 'CALL tegro_deliver() works');
	is(row($alone, 'order-warned')->{state}, 'accepted', 'and delivers it');

	my $refused = query($alone, pay('W-no-worker'));
	is($refused->{sqlstate}, 'TG002', 'a payout is refused');
	like($refused->{message}, qr/could not start a worker/, 'the error says why');
	is(row($alone, 'W-no-worker'), undef, 'and nothing is on record');

	# few: twenty at once
	$alone->append_conf('postgresql.conf', 'max_worker_processes = 4');
	$alone->restart;
	my %sessions = map { ("W-crowd-$_" => session($alone)) } 1 .. 20;
	$alone_sandbox->fault('createWithdrawal', 'execute_then_hold', ms => 300, times => -1);
	$sessions{$_}->send(pay($_)) foreach sort keys %sessions;
	my %results = map { ($_ => $sessions{$_}->wait) } sort keys %sessions;
	$alone_sandbox->clear_faults;
	my @paid = grep { $results{$_}{out} =~ /"type": "success"/ } sort keys %results;
	my @refused = grep { $results{$_}{sqlstate} eq 'TG002' } sort keys %results;
	note(scalar(@paid) . ' of 20 were paid, ' . scalar(@refused) . ' refused');
	is(@paid + @refused, 20, 'each of twenty is paid, or told that no worker is free')
	  or diag(explain({ map { ($_ => $results{$_}{err}) } sort keys %results }));
	cmp_ok(scalar(@paid), '>=', 1, 'some are paid');
	is(scalar(grep { executed($alone_sandbox, $_) != 1 } @paid), 0, 'those are paid once');
	is(scalar(grep { row($alone, $_) || executed($alone_sandbox, $_) } @refused),
		0, 'of the others there is no trace');
	foreach my $name (@refused)
	{
		wait_until(sub { ask($alone, pay($name))->{sqlstate} eq '' });
	}
	is(scalar(grep { executed($alone_sandbox, $_) != 1 } sort keys %results),
		0, 'called again, all are paid once');
	$_->close foreach values %sessions;
	check_outbox($alone, $alone_sandbox, 'the outbox agrees with the provider');
};

# What follows has a worker that soon goes.
$node->append_conf('postgresql.conf', 'tegro.worker_idle_timeout = 1s');
$node->restart;

# Waits until nothing is delivered, and nobody would.
sub no_worker
{
	return wait_until(sub { !processes($node, 'tegro delivery worker') });
}

sub prepare_both
{
	my ($name) = @_;
	my $session = session($node);

	$session->query('BEGIN');
	enqueue($session, 'createOrder', "order-$name");
	enqueue($session, 'createWithdrawal', "payout-$name");
	$session->query("PREPARE TRANSACTION '$name'");
	$session->close;
	return;
}

# Long enough for a worker to be started again, and to deliver.
use constant SOON => 40;

part 'fault 20: a prepared transaction that outlives those who would deliver it' => sub {
	prepare_both('restart');
	$node->restart;
	prepare_both('terminate');
	my $worker = worker_pid($node);
	ask($node, "SELECT pg_terminate_backend($worker, 5000)");
	is(ask($node, "COMMIT PREPARED '$_'")->{sqlstate}, '', "$_: it commits")
	  foreach qw(restart terminate);
	foreach my $reference (map { ("order-$_", "payout-$_") } qw(restart terminate))
	{
		ok(wait_until(sub { row($node, $reference)->{state} eq 'accepted' }, SOON),
			"$reference is delivered with nothing else enqueued");
	}

	# on its own: no other transaction is there that keeps a worker
	ok(no_worker(), 'the worker goes');
	prepare_both('alone');
	$worker = worker_pid($node);
	ask($node, "SELECT pg_terminate_backend($worker, 5000)");
	is(ask($node, "COMMIT PREPARED 'alone'")->{sqlstate}, '', 'alone: it commits');
	ok(wait_until(sub { row($node, 'payout-alone')->{state} eq 'accepted' }, SOON),
		'payout-alone is delivered with nothing else enqueued');
	enqueue($node, 'createOrder', 'order-wake');
	ok(wait_for_end($node), 'all comes to an end with the next request');
	check_outbox($node, $sandbox, 'the outbox agrees with the provider');
};

part 'fault 7: a session is killed while its commit returns' => sub {
	ok(no_worker(), 'the worker goes');
	# a commit that waits for a standby is on disk, and nobody was woken yet
	set_and_reload($node, synchronous_standby_names => 'nobody');
	my $session = session($node);
	$session->query('BEGIN');
	enqueue($session, 'createOrder', 'order-commit');
	enqueue($session, 'createWithdrawal', 'payout-commit');
	$session->send('COMMIT');
	ok(
		wait_until(
			sub {
				return ask($node, 'SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $session->pid)
				  ->{out} eq 'SyncRep';
			}),
		'a commit is on disk');
	crash_worker($node, $session->pid);
	$session->close;
	$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
	reload_conf($node);
	is(row($node, 'payout-commit')->{enqueued_by_name}, 'postgres', 'it is there after the restart');
	ok(wait_until(sub { row($node, 'payout-commit')->{state} eq 'accepted' }, SOON),
		'it is delivered with nothing else enqueued');
	enqueue($node, 'createOrder', 'order-wake-2');
	ok(wait_for_end($node), 'all comes to an end with the next request');
	check_outbox($node, $sandbox, 'the outbox agrees with the provider');
};

foreach my $lane (@lanes)
{
	my $number = $lane->{number};

	$lane->{rows} = { map { $_->{reference} => $_ } rows($lane->{node}) };
	$lane->{executions} = executions($lane->{sandbox});
	part "fault $number: the worker is killed: $lane->{fault}{what}" => sub {
		check_crash($lane, 'worker');
		is($lane->{worker}{requests}, 2, 'nothing but the first two was sent before the crash')
		  if $number == 6;
	};
}
part 'fault 7: the whole server is killed' => sub {
	foreach my $lane (@lanes)
	{
		subtest "fault $lane->{number}: the whole server is killed: $lane->{fault}{what}" => sub {
			check_crash($lane, $_) foreach @server_rounds;
			check_outbox($lane->{node}, $lane->{sandbox}, 'the outbox agrees with the provider');
		};
	}
};
$_->{node}->stop foreach @lanes;
note_time('faults 1 to 8 are through');

done_testing();

__DATA__
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int
is_full(int fd)
{
	const char *flag = getenv("TEGRO_FULL");
	char		what[64] = "";
	char		link[64];
	char		path[4096];
	ssize_t		len;
	int			saved = errno;
	int			flag_fd = flag ? open(flag, O_RDONLY | O_CLOEXEC) : -1;

	if (flag_fd < 0)
	{
		errno = saved;
		return 0;
	}
	len = read(flag_fd, what, sizeof(what) - 1);
	close(flag_fd);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = len > 0 ? readlink(link, path, sizeof(path) - 1) : -1;
	errno = saved;
	if (len <= 0)
		return 0;
	path[len] = '\0';
	return strstr(path, what) != NULL;
}

#define WRITER(type, name, params, ...) \
type name params \
{ \
	static type (*real) params; \
	if (real == NULL) \
		real = (type (*) params) dlsym(RTLD_NEXT, #name); \
	if (is_full(fd)) \
	{ \
		errno = ENOSPC; \
		return FAILURE; \
	} \
	return real(__VA_ARGS__); \
}

#define FAILURE -1
WRITER(ssize_t, write, (int fd, const void *buf, size_t n), fd, buf, n)
WRITER(ssize_t, pwrite, (int fd, const void *buf, size_t n, off_t at), fd, buf, n, at)
WRITER(ssize_t, pwrite64, (int fd, const void *buf, size_t n, off64_t at), fd, buf, n, at)
WRITER(ssize_t, writev, (int fd, const struct iovec *v, int n), fd, v, n)
WRITER(ssize_t, pwritev, (int fd, const struct iovec *v, int n, off_t at), fd, v, n, at)
WRITER(ssize_t, pwritev64, (int fd, const struct iovec *v, int n, off64_t at), fd, v, n, at)
#undef FAILURE
#define FAILURE ENOSPC
WRITER(int, posix_fallocate, (int fd, off_t at, off_t n), fd, at, n)
WRITER(int, posix_fallocate64, (int fd, off64_t at, off64_t n), fd, at, n)
