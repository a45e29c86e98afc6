#
# A call can be stopped, in each of its phases, and the session goes on.
#
# Six places are set up where a call gets stuck: a name that is never resolved
# (a library preloaded into the server answers for names below provider.test),
# a listening socket whose queue is full, a server that takes connections and
# stays silent, one that does not read, a sandbox that holds its answers, and
# one that lets them drip.  In each, a read and a createOrder are stopped by
# all that can stop a statement.  The time from the stop to the end of the
# statement, as psql sees it, may be 250 ms.  On a machine that is busy that
# can fail by chance: what the machine was late is not counted, a scenario is tried
# up to five times, and one must be in time; all must be within 10 s, for nothing
# here ends by itself in less than a minute.
#
# The API's address is a setting of the server.  A session takes a new one when a
# statement begins, not before: so calls to all six places are under way at the
# same time, although the server is set to them one after another.
#
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IO::Select;
use List::Util qw(max min);
use Test::More;
use TegroTest;
use Time::HiRes qw(sleep time);

use constant LIMIT_MS => 250;
use constant NEVER_MS => 10_000;

# Sent to a server that does not read: more than the kernels take on behalf of
# either end, which is some 200 kB there.
use constant LARGE => 1_000_000;

my $certificates = certificates();
my %preloaded = preload_library();
my %tls = (certificates => $certificates);
my $sandbox = sandbox(%tls);
my $holding = sandbox(%tls);
my $dripping = sandbox(%tls);
# both say when something has come to them
my $stays_silent = sub {
	my ($socket) = @_;

	IO::Select->new($socket)->can_read;
	TegroTest::raw_note(came => 1);
	sleep 600;
};
my $silent = raw_server($stays_silent);
my $deaf = raw_server($stays_silent, small_buffer => 1);
my $full = black_hole();
my $node = cluster('main', $sandbox, %tls, environment => \%preloaded, conf => "tegro.max_request_size = '16MB'");

$holding->fault('*', 'hold', ms => 600_000, times => -1);
$dripping->fault('*', 'drip', ms => 300, times => -1);

# How often something has come to one of them.
sub came_to
{
	my ($server) = @_;

	return scalar(grep { $_->{came} } $server->notes);
}

# Where a call gets stuck; how many calls got there so far, where that can be
# told; whether its request is on its way by then.
my @phases = (
	{
		name => 'during name lookup',
		url => 'https://stuck.provider.test:1/api',
		sent => 0,
	},
	{
		name => 'while connecting',
		url => 'https://127.0.0.1:' . $full->port . '/api',
		sent => 0,
	},
	{
		name => 'during the TLS handshake',
		url => 'https://127.0.0.1:' . $silent->port . '/api',
		count => sub { return came_to($silent); },
		sent => 0,
	},
	{
		name => 'while sending',
		url => $deaf->url,
		count => sub { return came_to($deaf); },
		size => LARGE,
		sent => 1,
	},
	{
		name => 'while waiting for the answer',
		url => $holding->api_url,
		count => sub { return scalar($holding->journal); },
		sent => 1,
	},
	{
		name => 'while receiving the answer',
		url => $dripping->api_url,
		count => sub { return scalar($dripping->journal); },
		sent => 1,
	});

# A call for each phase and kind, each with a session of its own.
my @calls;
foreach my $phase (@phases)
{
	foreach my $kind (qw(balance createOrder))
	{
		push @calls,
		  {
			phase => $phase,
			kind => $kind,
			name => "$kind $phase->{name}",
			after_the_send => $kind eq 'createOrder' && $phase->{sent}
		  };
	}
}

my $order_count = 0;

sub set
{
	my ($session, %settings) = @_;

	my $result = $session->query(
		join('; ', map { "SET $_ = '$settings{$_}'" } sort keys %settings));
	die $result->{err} if $result->{err};
	return;
}

# Sets where calls go that begin from here on, in idle sessions that there are
# and in new ones.
sub go_to
{
	my ($url, @sessions) = @_;

	set_server($node, { 'tegro.api_url' => $url }, @sessions);
	return;
}

# A statement that makes a call, of a size; and the order's number.
sub statement
{
	my ($kind, $size) = @_;
	my $filler = $size ? ", 'filler', repeat('x', $size)" : '';
	my $order_id = 'order ' . ++$order_count;

	return ("SELECT tegro_call('$kind', jsonb_build_object('order_id', '$order_id', "
		. "'currency', 'RUB', 'amount', 1$filler))", $order_id);
}

# Begins calls, each in its session.
sub begin
{
	my ($calls, %settings) = @_;

	foreach my $call (@$calls)
	{
		$call->{session} //= session($node);
	}
	foreach my $phase (@phases)
	{
		my @here = grep { $_->{phase} == $phase } @$calls;

		next unless @here;
		go_to($phase->{url}, map { $_->{session} } @here);
		foreach my $call (@here)
		{
			set($call->{session},
				'tegro.timeout' => '60s',
				'tegro.connect_timeout' => '60s',
				%settings);
			(my $sql, $call->{order_id}) = statement($call->{kind}, $phase->{size});
			$call->{session}->send($sql);
		}

		# one that has not begun would go to the next address
		my $pids = join(', ', map { $_->{session}->pid } @here);
		wait_until(
			sub {
				return query($node, "SELECT count(*) FROM pg_stat_activity WHERE pid IN ($pids) AND state = 'active'")->{out} eq
				  scalar(@here);
			}) or die "calls did not begin $phase->{name}";
	}
	return;
}

# Begins calls, and waits until each is stuck where it should be.
sub get_stuck
{
	my ($calls) = @_;
	my @counted = grep { $_->{count} } @phases;
	my %expected = map { $_->{name} => $_->{count}->() } @counted;

	$expected{ $_->{phase}{name} }++ foreach @$calls;
	begin($calls);
	foreach my $phase (@counted)
	{
		wait_until(sub { return $phase->{count}->() >= $expected{ $phase->{name} }; })
		  or die "calls did not get stuck $phase->{name}";
	}
	# the others, and for what is sent to run full
	sleep 0.3;
	return;
}

my $name_count = 0;

# Sees to it that the same sessions make right calls: to a name that was never
# looked up, and to the sandbox's address, where later calls go, too.  Each is
# given after what happened in it.
sub go_on
{
	my @sessions = @_;
	my $name = 'slow-0-' . ++$name_count . '.provider.test:' . $sandbox->port;

	foreach my $pair (@sessions)
	{
		set($pair->[1], 'tegro.timeout' => '40s', 'tegro.connect_timeout' => '30s', statement_timeout => 0);
	}
	foreach my $url ("https://$name/api", $sandbox->api_url)
	{
		go_to($url, map { $_->[1] } @sessions);
		foreach my $pair (@sessions)
		{
			my ($what, $session) = @$pair;
			my $result = $session->query('SELECT tegro_balance()');

			like($result->{out}, qr/"type": "success"/, "$what: the session makes a right call after it")
			  or diag($result->{err});
			cmp_ok(own_ms($result), '<=', NEVER_MS, "$what: which does not hang");
		}
	}
	return;
}

# The detail of a cancel or a shutdown says "sent" where that is so, else not.
sub tells_what_was_sent
{
	my ($call, $result) = @_;

	if ($call->{after_the_send})
	{
		is($result->{detail},
			"The request createOrder for \"$call->{order_id}\" had already been sent, and may take effect.",
			"$call->{name}: the detail says that it had been sent");
	}
	else
	{
		unlike($result->{err}, qr/\bsent\b/,
			"$call->{name}: nothing is said of a request that was sent");
	}
	return;
}

# Tries a scenario, which returns how many ms too late each of its calls ended,
# until each was in time once.
sub in_time
{
	my ($scenario) = @_;
	my (%best, %worst);

	foreach (1 .. 5)
	{
		my %late_ms = $scenario->();
		foreach my $name (keys %late_ms)
		{
			$best{$name} = min($best{$name} // (), $late_ms{$name});
			$worst{$name} = max($worst{$name} // (), $late_ms{$name});
		}
		last if max(values %best) <= LIMIT_MS;
	}
	foreach my $name (sort keys %best)
	{
		cmp_ok($best{$name}, '<=', LIMIT_MS, "$name: ended within @{[LIMIT_MS]} ms");
		cmp_ok($worst{$name}, '<=', NEVER_MS, "$name: never took @{[NEVER_MS]} ms");
	}
	note(sprintf('latest: %.0f ms', max(values %worst)));
	return;
}

my $control = session($node);

subtest 'pg_cancel_backend ends a call in every phase' => sub {
	in_time(
		sub {
			my %late_ms;

			get_stuck(\@calls);
			foreach my $call (@calls)
			{
				my $session = $call->{session};
				my $from = time;

				is($control->query('SELECT pg_cancel_backend(' . $session->pid . ')')->{out},
					't', "$call->{name}: cancelled");
				my $result = $session->wait;
				$late_ms{ $call->{name} } = own_ms($from, $result->{ended});
				is($result->{sqlstate}, '57014', "$call->{name}: the statement was cancelled");
				tells_what_was_sent($call, $result);
			}
			go_on(map { [ $_->{name}, $_->{session} ] } @calls);
			return %late_ms;
		});
};

# A setting that ends calls of itself: which, and what comes of it.
sub ends_by_itself
{
	my ($calls, $limit_ms, $settings, $check) = @_;

	in_time(
		sub {
			my %late_ms;

			begin($calls, %$settings);
			wait_until(sub { return @$calls == grep { $_->{session}->poll(0); } @$calls; });
			foreach my $call (@$calls)
			{
				my $result = $call->{session}->wait;

				$late_ms{ $call->{name} } = own_ms($result) - $limit_ms;
				cmp_ok($result->{ms}, '>=', $limit_ms - 5, "$call->{name}: had its time");
				$check->($call, $result);
			}
			go_on(map { [ $_->{name}, $_->{session} ] } @$calls);
			return %late_ms;
		});
	return;
}

subtest 'statement_timeout ends a call in every phase' => sub {
	ends_by_itself(
		\@calls, 2000,
		{ statement_timeout => '2s' },
		sub {
			my ($call, $result) = @_;

			is($result->{sqlstate}, '57014', "$call->{name}: the statement was cancelled");
			like($result->{message}, qr/statement timeout/, "$call->{name}: by the timeout");
			tells_what_was_sent($call, $result);
		});
};

subtest 'tegro.connect_timeout ends a call that gets no connection' => sub {
	ends_by_itself(
		[ grep { !$_->{phase}{sent} } @calls ],
		1000,
		{ 'tegro.connect_timeout' => '1s', 'tegro.read_retries' => 0 },
		sub {
			my ($call, $result) = @_;

			is($result->{sqlstate}, 'TG002', "$call->{name}: it was not sent");
			like($result->{detail}, qr/\Q$call->{phase}{name}\E; nothing was sent/,
				"$call->{name}: the detail says how far it came");
			set($call->{session}, 'tegro.read_retries' => 2);
		});
};

subtest 'tegro.timeout ends a call in every phase' => sub {
	ends_by_itself(
		\@calls, 2000,
		{ 'tegro.timeout' => '2s' },
		sub {
			my ($call, $result) = @_;

			is( $result->{sqlstate},
				!$call->{phase}{sent} ? 'TG002'
				: $call->{kind} eq 'createOrder' ? 'TG003'
				: 'TG004',
				"$call->{name}: the SQLSTATE tells whether it may have taken effect");
			my $where = $call->{phase}{name} eq 'while sending' ? 'while (sending|waiting)' : $call->{phase}{name};
			like($result->{detail}, qr/$where/, "$call->{name}: the detail says how far it came");
		});
};

subtest 'repeats after tegro.connect_timeout stay within tegro.timeout' => sub {
	my ($call) = grep { $_->{name} eq 'createOrder while connecting' } @calls;

	in_time(
		sub {
			set($call->{session},
				'tegro.timeout' => '2100ms',
				'tegro.connect_timeout' => '600ms',
				'tegro.read_retries' => 100);
			go_to($call->{phase}{url}, $call->{session});
			my $result = $call->{session}->query((statement('createOrder'))[0]);
			is($result->{sqlstate}, 'TG002', 'it was not sent');
			like($result->{detail}, qr/attempt [23]/, 'it was tried again');
			return ('createOrder' => own_ms($result) - 2100);
		});
	set($call->{session}, 'tegro.read_retries' => 2);
	go_on([ 'createOrder', $call->{session} ]);
};

subtest 'a call can be cancelled while it waits to be repeated' => sub {
	in_time(
		sub {
			my $session = session($node);

			$sandbox->begin;
			$sandbox->fault('balance', 'answer', status => 429, headers => { 'Retry-After' => '30' });
			set($session, 'tegro.timeout' => '60s');
			$session->send('SELECT tegro_balance()');
			wait_until(sub { return scalar($sandbox->journal) == 1; });
			sleep 0.2;
			my $from = time;
			$control->query('SELECT pg_cancel_backend(' . $session->pid . ')');
			my $result = $session->wait;
			is($result->{sqlstate}, '57014', 'the statement was cancelled');
			is(scalar($sandbox->journal), 1, 'nothing was sent after it');
			go_on([ 'balance', $session ]);
			$session->close;
			return (balance => own_ms($from, $result->{ended}));
		});
};

subtest 'a batch can be cancelled in every phase' => sub {
	foreach my $phase (grep { !$_->{size} } @phases)
	{
		foreach my $kind (qw(balance createOrder))
		{
			in_time(
				sub {
					my $session = session($node);
					my $name = "a batch of $kind $phase->{name}";
					my $before = $phase->{count} ? $phase->{count}->() : 0;

					set($session,
						'tegro.timeout' => '60s',
						'tegro.connect_timeout' => '60s',
						'tegro.max_concurrency' => 4);
					go_to($phase->{url}, $session);
					$session->send("SELECT * FROM tegro_batch('$kind', ARRAY(SELECT jsonb_build_object("
						  . "'order_id', 'batch ' || i, 'currency', 'RUB', 'amount', 1) FROM generate_series(1, 10) i))");
					wait_until(sub { return !$phase->{count} || $phase->{count}->() >= $before + 4; });
					sleep 0.2;
					my $from = time;
					$control->query('SELECT pg_cancel_backend(' . $session->pid . ')');
					my $result = $session->wait;
					is($result->{sqlstate}, '57014', "$name: the statement was cancelled");
					is( $result->{detail},
						$phase->{sent} && $kind eq 'createOrder'
						? '4 requests createOrder had already been sent, and may take effect.'
						: '',
						"$name: the detail says what had been sent");
					go_on([ $name, $session ]);
					$session->close;
					return ($name => own_ms($from, $result->{ended}));
				});
		}
	}
};

subtest 'an error after a call finds everything as it was before' => sub {
	my $session = session($node);

	foreach my $call ("tegro_balance()", "tegro_batch('balance', ARRAY['{}', '{}']::jsonb[])")
	{
		my $result = $session->query("SELECT md5(($call)::text), 1 / (random() * 0)::int");
		is($result->{sqlstate}, '22012', "$call, then a division by zero in the same statement")
		  or diag($result->{err});
		$session->query("DO \$\$ BEGIN PERFORM $call; RAISE EXCEPTION USING ERRCODE = 'TT001'; END \$\$");
		is($session->wait->{sqlstate}, 'TT001', "$call, then an error in the same block");
	}
	go_on([ 'after', $session ]);
	$session->close;
	return;
};

subtest 'a PL/pgSQL block that catches query_canceled goes on calling' => sub {
	my $session = session($node);

	$sandbox->begin;
	$sandbox->fault('createOrder', 'hold', ms => 600_000);
	set($session, 'tegro.timeout' => '60s');
	$session->send(<<'SQL');
DO $$
DECLARE
	caught text;
	detail text;
BEGIN
	FOR i IN 1..3 LOOP
		BEGIN
			PERFORM tegro_create_order(jsonb_build_object('order_id', 'block ' || i, 'currency', 'RUB', 'amount', 1));
		EXCEPTION WHEN query_canceled THEN
			GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
			caught := concat(caught, i, ': ', detail);
		END;
	END LOOP;
	RAISE EXCEPTION 'caught %', caught;
END
$$
SQL
	wait_until(sub { return scalar($sandbox->journal) == 1; });
	$control->query('SELECT pg_cancel_backend(' . $session->pid . ')');
	my $result = $session->wait;
	is($result->{message},
		'caught 1: The request createOrder for "block 1" had already been sent, and may take effect.',
		'the first call was cancelled, and the block saw what it was about');
	is_deeply([ map { $_->{params}{order_id} } $sandbox->journal(executed => 1) ],
		[ 'block 2', 'block 3' ], 'the others were made');
	go_on([ 'the block', $session ]);
	$session->close;
};

subtest '200 calls that are cancelled leave no descriptor open' => sub {
	my $session = session($node);
	my @cancelled = grep { !$_->{size} } @phases[ 1 .. $#phases ];

	# a lookup that ends: one that never does keeps its thread, and what is the
	# thread's
	push @cancelled, { url => 'https://slow-200.provider.test:1/api' };
	go_on([ 'before', $session ]);
	my $before;
	foreach my $round (0 .. 200)
	{
		my $phase = $cancelled[ $round % @cancelled ];

		# the first is for what is made once
		$before = descriptors($session->pid) if $round == 1;
		go_to($phase->{url}, $session);
		set($session,
			'tegro.timeout' => '60s',
			'tegro.connect_timeout' => '60s',
			statement_timeout => '15ms');
		my $result = $session->query('SELECT tegro_balance()');
		is($result->{sqlstate}, '57014', "call $round was cancelled") if $result->{sqlstate} ne '57014';
		set($session, statement_timeout => 0);
	}
	wait_until(sub { return descriptors($session->pid) <= $before; }, 30);
	cmp_ok(descriptors($session->pid), '<=', $before, "no more than the $before from before");
	go_on([ 'after', $session ]);
	$session->close;
};

subtest 'the end of the client ends the call' => sub {
	my $session = session($node);

	set($session, client_connection_check_interval => '50ms', 'tegro.timeout' => '60s');
	go_to($holding->api_url, $session);
	$session->send('SELECT tegro_balance()');
	sleep 0.2;
	my $pid = $session->pid;
	$session->close;
	ok(wait_until(sub { return !kill(0, $pid); }, 30), 'the backend is gone');
};

subtest 'signals while calls run don\'t crash the backend' => sub {
	my $session = session($node);
	my $port = $sandbox->port;
	my $other = session($node);

	my $loop = <<'SQL';
DO $$
BEGIN
	FOR i IN 1..COUNT LOOP
		BEGIN
			PERFORM tegro_balance();
			PERFORM tegro_batch('orders', ARRAY['{}', '{}', '{}']::jsonb[]);
		EXCEPTION WHEN query_canceled THEN
			NULL;
		END;
	END LOOP;
END
$$
SQL
	my $short_loop = $loop =~ s/COUNT/3/r;
	my $long_loop = $loop =~ s/COUNT/1000000/r;

	# Tells the sessions of a name that none has looked up: the next loop does, on
	# a thread.
	my $names = 0;
	my $new_name = sub {
		my ($ms) = @_;
		my $name = sprintf('slow-%d-%d.provider.test', $ms // $names % 7, ++$names);

		$other->query("ALTER SYSTEM SET tegro.api_url = 'https://$name:$port/api'; SELECT pg_reload_conf()");
	};

	$sandbox->begin;
	$session->query('LISTEN storm');
	$new_name->();
	$session->send($short_loop);
	sleep 0.3;
	my $cancels = 0;
	my $problem = '';
	my $calls = 0;
	my $deadline = time + 60;
	for (my $round = 0; ($cancels < 200 || $calls < 20) && !$problem && time < $deadline; $round++)
	{
		my $pid = $session->pid;

		kill($_, $pid) foreach qw(USR1 URG);
		kill('HUP', $pid) if $round % 10 == 0;
		$new_name->();
		$other->query('NOTIFY storm') if $round % 10 == 5;
		$cancels += kill('INT', $pid) if $round % 2;
		# where the machine is so slow that no call gets far, they come more seldom
		if ($session->poll($cancels < 200 ? 0.002 * ($round % 5) : 0.1))
		{
			# a cancel between the calls ends the loop early
			my $result = $session->wait;
			$problem = $result->{err} || 'the session is lost'
			  if $result->{sqlstate} ne '57014' && ($result->{err} ne '' || $result->{lost});
			$session->send($short_loop);
		}
		$calls = $sandbox->journal(method => 'balance') if $cancels >= 200;
	}
	is($problem, '', 'no loop ended but by itself or a cancel');
	cmp_ok($cancels, '>=', 200, '200 cancels reached the backend');
	cmp_ok($calls, '>=', 20, 'calls were made meanwhile');

	# in the midst of a lookup
	kill('INT', $session->pid) until $session->poll(0.1);
	$new_name->(1000);
	$session->send($long_loop);
	sleep 0.1;
	foreach (1 .. 100)
	{
		kill($_, $session->pid) foreach qw(TERM INT USR1 URG);
	}
	my $result = $session->wait;
	is($result->{sqlstate}, '57P01', 'SIGTERM among others ends it, as it should');
	ok($result->{lost}, 'and the session with it');
	is(query($node, 'SELECT 1')->{out}, '1', 'the server goes on');
	unlike(TegroTest::slurp($node->logfile), qr/terminated by signal|PANIC:|TRAP:/,
		'no process of the server died of a signal');
	unlike(TegroTest::slurp($node->logfile), qr/is not blocked on a thread/,
		'threads that look names up leave signals alone');
	go_on([ 'another session', $other ]);
	$other->close;
};

$_->{session}->close foreach @calls;
delete $_->{session} foreach @calls;

subtest 'pg_terminate_backend ends a call in every phase' => sub {
	in_time(
		sub {
			my %late_ms;

			get_stuck(\@calls);
			foreach my $call (@calls)
			{
				my $session = delete $call->{session};
				my $from = time;

				is($control->query('SELECT pg_terminate_backend(' . $session->pid . ')')->{out},
					't', "$call->{name}: terminated");
				my $result = $session->wait;
				$late_ms{ $call->{name} } = own_ms($from, $result->{ended});
				is($result->{sqlstate}, '57P01', "$call->{name}: the session was terminated");
				tells_what_was_sent($call, $result);
				ok(wait_until(sub { return !kill(0, $session->pid); }, 20),
					"$call->{name}: the backend is gone");
				$session->close;
			}
			return %late_ms;
		});
};

$control->close;

subtest 'a fast shutdown ends calls in every phase' => sub {
	in_time(
		sub {
			my %late_ms;

			get_stuck(\@calls);
			my ($postmaster) = TegroTest::slurp($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
			my $from = time;
			kill('INT', $postmaster);
			wait_until(sub { return @calls == grep { $_->{session}->poll(0) } @calls; });
			foreach my $call (@calls)
			{
				my $session = delete $call->{session};
				my $result = $session->wait;

				$late_ms{ $call->{name} } = own_ms($from, $result->{ended});
				is($result->{sqlstate}, '57P01', "$call->{name}: the session was terminated");
				tells_what_was_sent($call, $result);
				$session->close;
			}
			wait_until(sub { return !kill(0, $postmaster); });
			{
				local %ENV = (%ENV, %preloaded);
				$node->restart;
			}
			return %late_ms;
		});
};

done_testing;
