# 103_copies.pl: the outbox after a failover, a restore, and in a copy.
#
# What a copy of the outbox knows is older than what its source did: requests
# that wait in it may have been sent, and may be sent by the source at this
# moment.  Here such copies are made in every way that PostgreSQL has: standbys,
# asynchronous and synchronous, a restore to a point in time, a base backup that
# is started by itself, a template copy, dumps.  Each time the sandbox counts
# what was executed.
#
# WAL is kept from a standby by stopping the walsender (SIGSTOP), so that it is
# certainly lost when the primary is killed then.
#
# One request is in flight at a time, so that it is known which meets a fault.
# All clusters but one are made from one base backup of an outbox that is empty
# and was never used, for it is initdb that takes its time.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use TegroTest;
use TegroOutbox;

my $origin = outbox_cluster(
	'origin', sandbox(),
	conf => <<'END');
wal_level = replica
max_wal_senders = 10
hot_standby = on
max_worker_processes = 16
tegro.max_concurrency = 1
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 200ms
END
$origin->backup('empty');
$origin->stop;

# What is stopped does not end by itself.
my @stopped;

END
{
	my $status = $?;

	kill('CONT', @stopped) if @stopped;
	$? = $status;
}

# Sets what only a reload sets, and waits until it is so.
sub set
{
	my ($node, $name, $value) = @_;

	$node->append_conf('postgresql.conf', "$name = $value");
	$node->reload;
	$node->poll_query_until('postgres', "SELECT current_setting('$name') = $value")
	  or die "$name was not set";
	return;
}

# A primary with an empty outbox; its delivery is off.
sub primary
{
	my ($name, $sandbox, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init_from_backup($origin, 'empty');
	$node->append_conf('postgresql.conf', "tegro.api_url = '" . $sandbox->api_url . "'");
	$node->append_conf('postgresql.conf', 'tegro.delivery = off');
	$node->enable_archiving if $options{archiving};
	$node->start;
	return $node;
}

# A server made from a base backup that is taken now.
sub copy_of
{
	my ($node, $name, %options) = @_;
	my $copy = PostgreSQL::Test::Cluster->new($name);

	$node->backup($name);
	$copy->init_from_backup($node, $name, has_streaming => $options{streaming});
	$copy->append_conf('postgresql.conf', $options{conf} // '');
	$copy->start;
	return $copy;
}

# From now on nothing reaches the standby.
sub cut_off
{
	my ($primary, $standby) = @_;

	$primary->wait_for_catchup($standby, 'replay');
	my ($walsender) = processes($primary, 'walsender');
	push @stopped, $walsender;
	kill('STOP', $walsender);
	wait_until(sub { state_of_process($walsender) eq 'T' }) or die 'no walsender to stop';
	return;
}

sub kill_server
{
	my ($node) = @_;

	crash_server($node, 'kill9');
	return;
}

sub states
{
	my ($node, $database) = @_;

	return $node->safe_psql($database // 'postgres',
		"SELECT string_agg(reference || ' ' || state, ', ' ORDER BY id) FROM tegro_outbox");
}

# How many requests are set aside.
sub asides
{
	my ($node, $database) = @_;

	return $node->safe_psql($database // 'postgres', q{SELECT count(*) FROM tegro_outbox WHERE aside = 'origin'});
}

sub requests
{
	my ($sandbox, @methods) = @_;
	my %wanted = map { ($_ => 1) } @methods;

	return scalar(grep { !@methods || $wanted{ $_->{method} } } $sandbox->journal);
}

# The doctor asks for other things.
sub requests_for_outbox { return requests($_[0], qw(createWithdrawal createOrder withdrawal order)); }

sub payouts_and_orders { return requests($_[0], qw(createWithdrawal createOrder)); }

sub executed
{
	my ($sandbox, $reference) = @_;
	my $executions = executions($sandbox);
	my $count = 0;

	$count += $executions->{$_} foreach grep { /^\w+ \Q$reference\E$/ } keys %$executions;
	return $count;
}

# A synchronous payout.
sub withdraw
{
	my ($reference) = @_;

	return "SELECT tegro_create_withdrawal(jsonb_build_object('payment_id', '$reference',"
	  . " 'amount', 10, 'currency', 'RUB', 'account', '4111'))";
}

# Runs one of the stories below, as a subtest; TEGRO_ONLY, a pattern, chooses
# among them.
sub story
{
	my ($name, $code) = @_;
	my $begun = time;

	return if defined $ENV{TEGRO_ONLY} && $name !~ /$ENV{TEGRO_ONLY}/;
	subtest $name => sub { $code->(sandbox()); };
	note(sprintf('%s took %.1f s', $name, time - $begun));
	return;
}


#
# A standby; and it takes over, having missed what the primary did last
#

story('faults 9, 10, 16: a standby, which takes over', sub {
	my ($sandbox) = @_;
	my $old = primary('old', $sandbox);
	my $new = copy_of($old, 'new', streaming => 1, conf => 'tegro.delivery = on');

	# 16
	enqueue($old, 'createOrder', $_) foreach qw(O-answered O-lost);
	enqueue($old, 'createWithdrawal', $_) foreach qw(W-answered W-lost W-resent);
	$old->wait_for_catchup($new, 'replay');
	my $session = session($new);
	is($session->query('SELECT count(*) FROM tegro_outbox')->{out}, 5,
		'on a standby the outbox can be read');
	is($session->query(q{SELECT tegro_balance() ->> 'type'})->{out}, 'success',
		'and calls that read work');
	my $result = $session->query(
		q{SELECT tegro_enqueue('createOrder', '{"order_id": "O", "amount": 1, "currency": "RUB"}')});
	is($result->{sqlstate}, '25006', 'nothing can be enqueued on a standby');
	like($result->{message}, qr/read-only|recovery/, 'the error says why');
	$result = $session->query(withdraw('W'));
	is($result->{sqlstate}, '25006', 'nothing can be paid out on a standby');
	like($result->{hint}, qr/primary/, 'the hint says where it can');
	$result = $session->query('CALL tegro_deliver()');
	like($result->{err}, qr/nothing was delivered.*standby/, 'CALL tegro_deliver() says that it delivers nothing there');
	foreach my $call ('tegro_cancel(1)', 'tegro_retry(1)', q{tegro_resolve(1, 'accepted', 'so it is')},
		q{tegro_take_over('it must')})
	{
		is($session->query("SELECT $call")->{sqlstate}, '25006', "$call is refused there");
	}
	is($session->query('SELECT tegro_wait(1, interval \'0\')')->{sqlstate}, '55000',
		'tegro_wait says there that there is no outcome yet');
	is(join(' ', processes($new, 'tegro')), '', 'no worker runs there');
	is(payouts_and_orders($sandbox), 0, 'and nothing is sent');

	# 9, 10
	# one that the old primary has looked up for long, and that a person has sent again
	my $lock = session($old);
	$old->safe_psql('postgres', <<'END');
UPDATE tegro_outbox SET state = 'unknown', attempts = 1, claim_no = 1, sent_claim_no = 1, absent = 2,
       unknown_since = now() - interval '1 day' WHERE reference = 'W-resent'
END
	$lock->query(q{BEGIN; SELECT FROM tegro_outbox WHERE reference = 'W-resent' FOR UPDATE});
	foreach my $node ($old, $new)
	{
		set($node, 'tegro.review_after', q{'8s'});
	}
	cut_off($old, $new);
	$sandbox->fault('createOrder', 'close_after_read', skip => 1);
	$sandbox->fault('createWithdrawal', 'close_after_read', skip => 1);
	set($old, 'tegro.delivery', q{'on'});
	wait_for_row($old, $_, 'unknown') foreach qw(O-lost W-lost);
	is(states($old), 'O-answered accepted, O-lost unknown, W-answered accepted, W-lost unknown, W-resent unknown',
		'the old primary delivers, and no standby knows');
	# beside those, requests that no standby has heard of
	enqueue($old, 'createOrder', 'O-orphan');
	enqueue($old, 'createWithdrawal', 'W-orphan');
	wait_for_row($old, $_, 'accepted') foreach qw(O-orphan W-orphan);
	# executed, and not to be seen for a while
	$sandbox->fault('createWithdrawal', 'hide', ms => 5000);
	$lock->query(q{SELECT tegro_resolve(id, 'resend', 'not found') FROM tegro_outbox WHERE reference = 'W-resent'; COMMIT});
	query($old, 'CALL tegro_deliver()');
	is(wait_for_row($old, 'W-resent', 'accepted')->{state}, 'accepted', 'it sends again what was not found, as a person wants');
	is($session->query('SELECT max(claim_no) FROM tegro_outbox')->{out}, 1, 'the standby has none of it');
	$_->close foreach $session, $lock;
	kill_server($old);

	$new->promote;
	is(wait_for_row($new, 'W-answered', 'accepted')->{state}, 'accepted',
		'the new primary begins by itself, and finds the payout that was answered');
	like(row($new, 'W-answered')->{message}, qr/found by lookup/, 'by a lookup');
	is(wait_for_row($new, 'O-answered', 'accepted')->{state}, 'accepted', 'and the order');
	is(wait_for_row($new, 'O-lost', 'accepted')->{state}, 'accepted', 'an order that never arrived is sent');
	is(executed($sandbox, 'O-lost'), 1, 'once');
	is(wait_for_row($new, 'W-resent', 'accepted')->{state}, 'accepted', 'what was sent again is found, once it shows');
	is(executed($sandbox, 'W-resent'), 1,
		'what the old primary sent again just now is not sent yet again by the new one');
	is(wait_for_row($new, 'W-lost', 'review')->{state}, 'review', 'a payout that never arrived waits for a person');
	is(executed($sandbox, 'W-lost'), 0, 'and is not sent');
	ok($new->log_contains(qr/requests of the tegro outbox are from before a failover or restore: \d/),
		'the log says that they are from before a failover');

	# 10: what is not on record here, by the provider's lists
	my $orphans = $new->safe_psql('postgres', <<'END');
SELECT string_agg(w ->> 'payment_id', ' ')
  FROM jsonb_array_elements((tegro_withdrawals() -> 'data') || (tegro_orders() -> 'data')) w
 WHERE NOT EXISTS (SELECT FROM tegro_outbox WHERE reference = w ->> 'payment_id')
END
	is(join(' ', sort split(/ /, $orphans)), 'O-orphan W-orphan',
		'requests that were lost with the old primary can be listed by what the provider has');

	$new->stop;
	my %executions = %{ executions($sandbox) };
	is(join(', ', grep { $executions{$_} != 1 } sort keys %executions), '',
		'nothing was executed twice over the failover');
});


#
# Both alive: an old primary that nobody stopped, beside the new one
#

story('fault 9: a zombie', sub {
	my ($sandbox) = @_;
	my $old = primary('zombie', $sandbox);
	my $new = copy_of($old, 'successor', streaming => 1, conf => 'tegro.delivery = on');

	enqueue($old, 'createWithdrawal', $_) foreach qw(W-before W-after);
	my $lock = session($old);
	$lock->query(q{BEGIN; SELECT FROM tegro_outbox WHERE reference = 'W-after' FOR UPDATE});
	cut_off($old, $new);
	$new->promote;
	$sandbox->fault('createWithdrawal', 'execute_later', ms => 2000);
	set($old, 'tegro.delivery', q{'on'});
	is(wait_for_row($new, 'W-before', 'accepted')->{state}, 'accepted',
		'what the old primary sends while the new one looks it up is found');
	is(wait_for_row($new, 'W-after', 'review')->{state}, 'review',
		'what the old one has not sent by then is left to a person');
	$lock->query('ROLLBACK');
	query($old, 'CALL tegro_deliver()');
	is(wait_for_row($old, 'W-after', 'accepted')->{state}, 'accepted', 'the old one sends it after all');
	is(wait_for_row($new, 'W-after', 'accepted')->{state}, 'accepted', 'and the new one finds it after all');
	is(executed($sandbox, $_), 1, "$_ was executed once") foreach qw(W-before W-after);
	kill('CONT', @stopped);
	$old->stop('immediate');
	$new->stop;
});


#
# Both alive, and a synchronous standby was configured
#

story('fault 11: a synchronous standby', sub {
	my ($sandbox) = @_;
	my $old = primary('fenced', $sandbox);
	my $new = copy_of($old, 'elected', streaming => 1,
		conf => "tegro.delivery = on\nsynchronous_standby_names = ''");

	# nor does a database's own setting change it
	$old->safe_psql('postgres', 'ALTER DATABASE postgres SET synchronous_commit = off');
	enqueue($old, 'createWithdrawal', $_) foreach qw(W1 W2);
	enqueue($old, 'createOrder', 'O1');
	my $session = session($old);
	set($old, 'synchronous_standby_names', q{'elected'});
	$old->wait_for_catchup($new, 'replay');
	$new->promote;
	is(wait_for_row($new, 'W1', 'review')->{state}, 'review', 'the new primary has the payouts, and does not find them');
	is(wait_for_row($new, 'O1', 'accepted')->{state}, 'accepted', 'and sends the order');
	my $before = payouts_and_orders($sandbox);

	my $waiting = sub {
		my ($kind) = @_;

		return wait_until(
			sub {
				$old->safe_psql('postgres',
					"SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND $kind") > 0;
			});
	};

	# the worker, told to begin
	set($old, 'tegro.delivery', q{'on'});
	ok($waiting->(q{backend_type = 'tegro delivery worker'}),
		'the worker of the old primary waits for the standby with its claim');
	sleep 1;
	is(payouts_and_orders($sandbox), $before, 'and sends nothing');
	$old->safe_psql('postgres', q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
		WHERE backend_type = 'tegro delivery worker'});
	is(payouts_and_orders($sandbox), $before, 'nor does it when its wait is ended by force');
	is($old->safe_psql('postgres', q{SELECT count(*) FROM tegro_outbox WHERE state = 'ready'}), 3,
		'what it had claimed waits again');

	# a session, before the worker returns
	$session->send('CALL tegro_deliver()');
	ok($waiting->('pid = ' . $session->pid) , 'so does a session that calls tegro_deliver()');
	my $ended = 0;
	for (my $cancels = 0; $cancels < 5 && !$ended; $cancels++)
	{
		$old->safe_psql('postgres', 'SELECT pg_cancel_backend(' . $session->pid . ')');
		$ended = wait_until(sub { $session->poll(0.1) }, 2);
	}
	ok($ended, 'it can be cancelled');
	is(payouts_and_orders($sandbox), $before, 'and sends nothing when its wait is cancelled');
	$old->safe_psql('postgres', 'SELECT pg_terminate_backend(' . $session->pid . ', 10000)') unless $ended;

	# a synchronous payout
	my $result = query($old, q{SET statement_timeout = '2s'; } . withdraw('W3'));
	is($result->{sqlstate}, '57014', 'a synchronous payout there waits, and can be cancelled');
	is(payouts_and_orders($sandbox), $before, 'and is not sent');
	$old->safe_psql('postgres', q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
		WHERE backend_type = 'tegro payout'});
	sleep 0.5;
	is(payouts_and_orders($sandbox), $before, 'nor is it when its worker is ended by force');

	$old->stop('immediate');
	$new->safe_psql('postgres', q{SELECT tegro_resolve(id, 'resend', 'the old one is fenced') FROM tegro_outbox
		WHERE state = 'review'});
	wait_for_row($new, $_, 'accepted') foreach qw(W1 W2);
	check_outbox($new, $sandbox, 'each was executed once, by the new primary');
	$new->stop;
});


#
# A restore to a point in time before the send
#

story('fault 12: a restore', sub {
	my ($sandbox) = @_;
	my $lost = primary('before', $sandbox, archiving => 1);
	my $restored = PostgreSQL::Test::Cluster->new('restored');

	$lost->backup('base');
	enqueue($lost, 'createWithdrawal', $_) foreach qw(W-sent W-refused);
	enqueue($lost, 'createOrder', 'O-sent');
	enqueue($lost, 'createWithdrawal', 'W-waiting');
	$lost->safe_psql('postgres', q{UPDATE tegro_outbox SET next_at = now() + interval '1 hour'
		WHERE reference = 'W-waiting'; SELECT pg_create_restore_point('before_send')});
	$sandbox->fault('createWithdrawal', 'answer', skip => 1, status => 200,
		body => '{"type":"error","desc":"Insufficient funds"}');
	set($lost, 'tegro.delivery', q{'on'});
	wait_for_row($lost, $_, 'accepted', 'refused') foreach qw(W-sent W-refused O-sent);
	is(states($lost), 'W-sent accepted, W-refused refused, O-sent accepted, W-waiting ready',
		'the database that will be lost delivers');
	# by name: the server itself may go on writing to the next file
	my $file = $lost->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
	$lost->poll_query_until('postgres', "SELECT last_archived_wal >= '$file' FROM pg_stat_archiver");
	$lost->stop;

	$restored->init_from_backup($lost, 'base', has_restoring => 1, standby => 0);
	$restored->append_conf('postgresql.conf',
		"recovery_target_name = 'before_send'\nrecovery_target_action = promote\ntegro.delivery = on");
	$restored->start;
	is(wait_for_row($restored, 'W-sent', 'accepted')->{state}, 'accepted',
		'after a restore to before the send, a payout is looked up, and found');
	is(wait_for_row($restored, 'O-sent', 'accepted')->{state}, 'accepted', 'so is an order');
	is(wait_for_row($restored, 'W-refused', 'review')->{state}, 'review',
		'a payout that was refused is not found, and left to a person');
	is(executed($sandbox, $_), 1, "$_ was executed once") foreach qw(W-sent O-sent);
	$restored->safe_psql('postgres', q{UPDATE tegro_outbox SET next_at = now() WHERE reference = 'W-waiting'});
	query($restored, 'CALL tegro_deliver()');
	is(wait_for_row($restored, 'W-waiting', 'review')->{state}, 'review',
		'so is one that was to be sent later');
	is(executed($sandbox, 'W-waiting'), 0, 'which is not sent');
	is($restored->safe_psql('postgres', q{SELECT count(tegro_resolve(id, 'resend', 'not there, says their support'))
		FROM tegro_outbox WHERE state = 'review' AND method = 'createWithdrawal'}), 2, 'a person can decide on all at once');
	is(wait_for_row($restored, $_, 'accepted')->{state}, 'accepted', "$_ is sent then") foreach qw(W-refused W-waiting);
	is(executed($sandbox, $_), 1, "$_ was executed once") foreach qw(W-refused W-waiting);
	enqueue($restored, 'createWithdrawal', 'W-new');
	is(wait_for_row($restored, 'W-new', 'accepted')->{state}, 'accepted', 'what is enqueued from then on is sent');
	$restored->stop;
});


#
# A base backup that is started by itself
#

story('fault 13: a base backup', sub {
	my ($sandbox) = @_;
	my $source = primary('source', $sandbox);

	enqueue($source, 'createOrder', $_) foreach qw(O-sent O-never);
	enqueue($source, 'createWithdrawal', $_) foreach qw(W-sent W-never);
	my $copy = copy_of($source, 'copy', conf => 'tegro.delivery = on');
	my $before = requests_for_outbox($sandbox);

	ok(wait_until(sub { asides($copy) == 4 }), 'a copy of a data directory sets what waits aside');
	ok($copy->log_contains(qr/requests of the tegro outbox are set aside: \d/), 'says so in the log');
	like($copy->safe_psql('postgres', q{SELECT detail || hint FROM tegro_doctor() WHERE "check" = 'origin'}),
		qr/set aside: 4\..*tegro_take_over/, 'and in the doctor, with what ends it');
	is($copy->safe_psql('postgres', 'SELECT count(*) FROM tegro_outbox WHERE next_at IS NOT NULL'), 0, 'nothing of it is due');
	my $result = query($copy, q{SELECT tegro_wait(id) FROM tegro_outbox WHERE reference = 'W-sent'});
	is($result->{sqlstate}, 'TG003', 'who waits for a request is not told that it was not sent');
	like("$result->{message} $result->{hint}", qr/set aside.*tegro_take_over/, 'but that it is set aside');
	is(query($copy, q{SELECT tegro_retry(id) FROM tegro_outbox WHERE reference = 'W-sent'})->{sqlstate}, '55000',
		'tegro_retry does not send it');
	is(query($copy, q{SELECT tegro_cancel(id) FROM tegro_outbox WHERE reference = 'W-sent'})->{sqlstate}, '55000',
		'nor is it certain that it was not sent');
	is(requests_for_outbox($sandbox), $before, 'the copy sends nothing of it, and looks nothing up');
	is(query($copy, withdraw('W-direct'))->{sqlstate}, '', 'a synchronous payout of the copy itself is carried out');
	enqueue($copy, 'createWithdrawal', 'W-new');
	is(wait_for_row($copy, 'W-new', 'accepted')->{state}, 'accepted', 'what is enqueued in the copy is sent at once');
	$before = requests_for_outbox($sandbox);
	$copy->restart;
	$copy->poll_query_until('postgres', 'SELECT true');
	query($copy, 'CALL tegro_deliver()');
	is(asides($copy) . ' ' . requests_for_outbox($sandbox), "4 $before", 'another start changes nothing');

	# the source goes on, and is then replaced by the copy
	$source->safe_psql('postgres', q{SELECT tegro_cancel(id) FROM tegro_outbox WHERE reference LIKE '%-never'});
	set($source, 'tegro.delivery', q{'on'});
	wait_for_row($source, $_, 'accepted') foreach qw(O-sent W-sent);
	$source->stop;
	$result = query($copy, q{SELECT tegro_take_over('the source is gone')});
	like($result->{err}, qr/2 orders are looked up, 2 payouts are in review/, 'tegro_take_over() says what follows');
	is(wait_for_row($copy, $_, 'accepted')->{state}, 'accepted', "$_ is found") foreach qw(O-sent W-sent);
	is(wait_for_row($copy, 'O-never', 'accepted')->{state}, 'accepted', 'an order that was never sent is sent');
	is(row($copy, 'W-never')->{state}, 'review', 'a payout that was never sent waits for a person');
	is(executed($sandbox, $_->[0]), $_->[1], "$_->[0] was executed $_->[1] times")
	  foreach [ 'O-sent', 1 ], [ 'W-sent', 1 ], [ 'O-never', 1 ], [ 'W-never', 0 ], [ 'W-new', 1 ], [ 'W-direct', 1 ];
	is(asides($copy), 0, 'nothing is aside any more');
	$copy->stop;
});


#
# Template copies and dumps
#

story('faults 14, 15: templates and dumps', sub {
	my ($sandbox) = @_;
	my $node = primary('databases', $sandbox);
	my $other = PostgreSQL::Test::Cluster->new('elsewhere');

	# a database of the same cluster whose worker never delivered, beside one
	# whose worker did
	my $ask = sub {
		my ($database, $method, $reference) = @_;
		my $arguments = TegroOutbox::enqueue_arguments($method, $reference);

		return query($node, "SELECT tegro_enqueue($arguments)", database => $database);
	};
	$node->safe_psql('postgres', 'CREATE DATABASE unused');
	$node->safe_psql('unused', 'CREATE EXTENSION tegro');
	my %waiting = (postgres => [ 'O-used', 'W-used' ], unused => [ 'O-unused', 'W-unused' ]);
	foreach my $database (sort keys %waiting)
	{
		$ask->($database, 'createOrder', $waiting{$database}[0]);
		$ask->($database, 'createWithdrawal', $waiting{$database}[1]);
	}

	# 14: a worker is a session, and is in the way of a template copy
	foreach my $database (sort keys %waiting)
	{
		ok(wait_until(
				sub {
					$node->safe_psql('template1', "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
						WHERE datname = '$database'");
					my ($status) = $node->psql('template1', "CREATE DATABASE template_$database TEMPLATE $database");
					return $status == 0;
				}),
			"database $database can be a template once its worker is ended");
	}

	# 15
	my $dir = PostgreSQL::Test::Utils::tempdir();
	$other->init(extra => [ '--encoding=UTF8', '--locale=C', '--auth=trust' ]);
	my $settings = slurp_file($node->data_dir . '/postgresql.conf');
	$other->append_conf('postgresql.conf',
		join("\n", grep { /^(tegro\.|shared_preload|max_worker)/ } split(/\n/, $settings)));
	set_delivery($other, 'off');
	$other->start;
	foreach my $database (sort keys %waiting)
	{
		$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/$database", $node->connstr($database) ],
			"database $database is dumped");
		foreach my $where ($node, $other)
		{
			$where->safe_psql('template1', "CREATE DATABASE restored_$database");
			$where->command_ok(
				[ 'pg_restore', '--exit-on-error', '-d', $where->connstr("restored_$database"), "$dir/$database" ],
				'and restored in ' . $where->name);
			is(states($where, "restored_$database"), states($node, $database), 'all requests are there');
			is($where->safe_psql("restored_$database", 'SELECT count(*) FROM tegro_event'),
				$node->safe_psql($database, 'SELECT count(*) FROM tegro_event'), 'and all attempts');
		}
	}

	# all at once, so that none of them may send what the others hold
	my $before = requests($sandbox);
	my @copies = map { ([ $node, "template_$_" ], [ $node, "restored_$_" ], [ $other, "restored_$_" ]) }
	  sort keys %waiting;
	set($other, 'tegro.delivery', q{'on'});
	my @locks = map { session($node, database => $_) } sort keys %waiting;
	$_->query('BEGIN; SELECT FROM tegro_outbox FOR UPDATE') foreach @locks;
	set($node, 'tegro.delivery', q{'on'});
	foreach my $copy (@copies)
	{
		my ($where, $database) = @$copy;
		my $name = "$database in " . $where->name;
		my $id = $where->safe_psql($database, 'SELECT max(id) FROM tegro_outbox');
		my $result;

		query($where, 'CALL tegro_deliver()', database => $database);
		is(asides($where, $database), 2, "what waits in $name is set aside");
		$result = query($where, q{SELECT tegro_enqueue('createOrder', '{"order_id": "new", "amount": 1, "currency": "RUB"}',
			deliver_after => now() + interval '1 hour')}, database => $database);
		is($result->{out}, $id + 1, "the numbers go on in $name");
		$where->safe_psql($database, "SELECT tegro_cancel($result->{out})");
		my $used = $database =~ /unused/ ? 'W-unused' : 'W-used';
		$result = query($where,
			qq{SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "$used", "amount": 11, "currency": "RUB", "account": "4111"}')},
			database => $database);
		is($result->{sqlstate}, 'TG007', "the references still count in $name");
	}
	sleep 1;
	is(requests($sandbox), $before, 'no copy sends or looks up anything');
	$_->close foreach @locks;
	query($node, 'CALL tegro_deliver()', database => $_) foreach sort keys %waiting;
	is(wait_for_row($node, $_, 'accepted')->{state}, 'accepted', "$_ is sent by the source") foreach @{ $waiting{postgres} };
	$node->poll_query_until('unused', q{SELECT count(*) = 2 FROM tegro_outbox WHERE state = 'accepted'});
	is(executed($sandbox, $_), 1, "$_ was executed once") foreach map { @$_ } values %waiting;

	# one of them takes over
	my $result = query($other, q{SELECT tegro_take_over('moved')}, database => 'restored_unused');
	like($result->{err}, qr/1 orders are looked up, 1 payouts are in review/, 'a restored dump can take over');
	ok($other->poll_query_until('restored_unused',
			q{SELECT count(*) = 2 FROM tegro_outbox WHERE state = 'accepted' AND reference LIKE '%-unused'}),
		'and finds what its source has sent');
	is(executed($sandbox, $_), 1, "$_ was executed once") foreach map { @$_ } values %waiting;
	$node->stop;
	$other->stop;
});

#
# Rows that come back
#

# A database of its own on a node.
sub database
{
	my ($node, $name) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION tegro');
	return;
}

# Enqueues in a database; the rest are arguments of tegro_enqueue.
sub enqueue_in
{
	my ($node, $database, $method, $reference, @more) = @_;
	my $arguments = join(', ', TegroOutbox::enqueue_arguments($method, $reference), @more);

	return $node->safe_psql($database, "SELECT tegro_enqueue($arguments)");
}

# Waits for the state of a request.
sub becomes
{
	my ($node, $database, $reference, $state) = @_;

	return $node->poll_query_until($database,
		"SELECT state = '$state' FROM tegro_outbox WHERE reference = '$reference'");
}

# Restores a dump, or a part of one.
sub restore
{
	my ($node, $database, $file, @options) = @_;

	return $node->command_ok([ 'pg_restore', '--exit-on-error', @options, '-d', $node->connstr($database), $file ],
		join(' ', 'pg_restore', grep { /^-/ } @options));
}

story('faults 46, 47, 83: a dump over its source, and rows of an older dump', sub {
	my ($sandbox) = @_;
	my $node = primary('back', $sandbox);
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $dump = "$dir/dump";
	# what waited when the dump was taken, and was delivered since
	my $deliver = sub {
		my ($database) = @_;

		database($node, $database);
		enqueue_in($node, $database, 'createOrder', "O-$database");
		enqueue_in($node, $database, 'createWithdrawal', "W-$database");
		$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dump-$database", $node->connstr($database) ],
			'a dump is taken while requests wait');
		set($node, 'tegro.delivery', q{'on'});
		ok(becomes($node, $database, $_, 'accepted'), "$_ is delivered") foreach "O-$database", "W-$database";
		set($node, 'tegro.delivery', q{'off'});
	};
	my $are_aside = sub {
		my ($database) = @_;
		my $before = requests($sandbox);
		my $session = session($node, database => $database);

		set($node, 'tegro.delivery', q{'on'});
		# a session that has enqueued before the rows were loaded, and one that has not
		enqueue_in($node, $database, 'createOrder', "O-new-$database");
		ok(becomes($node, $database, "O-new-$database", 'accepted'), 'what is enqueued then is delivered at once');
		is(states($node, $database), "O-$database ready, W-$database ready, O-new-$database accepted", 'and nothing else');
		is(asides($node, $database), 2, 'what was loaded is set aside');
		is(requests($sandbox), $before + 1, 'and not looked up');
		my $result = query($node, q{SELECT tegro_take_over('restored')}, database => $database);
		like($result->{err}, qr/1 orders are looked up, 1 payouts are in review/, 'a person takes it over');
		ok(becomes($node, $database, $_, 'accepted'), "$_ is found") foreach "O-$database", "W-$database";
		is(executed($sandbox, $_), 1, "$_ was executed once") foreach "O-$database", "W-$database";
		set($node, 'tegro.delivery', q{'off'});
		$session->close;
	};

	subtest 'fault 46: pg_restore --clean' => sub {
		$deliver->('clean');
		restore($node, 'clean', "$dump-clean", '--clean', '--if-exists');
		$are_aside->('clean');
	};

	subtest 'fault 83: TRUNCATE, and the data of an older dump' => sub {
		$deliver->('truncated');
		my $session = session($node, database => 'truncated');
		is($session->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "O-first", "amount": 1, "currency": "RUB"}')})->{err}, '',
			'a session enqueues');
		my $number = $node->safe_psql('truncated', 'SELECT number FROM tegro_origin');
		$node->safe_psql('truncated', 'TRUNCATE tegro_outbox, tegro_event');
		isnt($node->safe_psql('truncated', 'SELECT number FROM tegro_origin'), $number, 'TRUNCATE draws a new number');
		restore($node, 'truncated', "$dump-truncated", '--data-only');
		$session->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "O-next", "amount": 1, "currency": "RUB"}')});
		is($session->query(q{SELECT string_agg(reference, ' ') FROM tegro_outbox
			WHERE split_part(origin, '/', 5) = (SELECT number FROM tegro_origin)})->{out}, 'O-next',
			'the same session goes on under the new one');
		$session->query(q{DELETE FROM tegro_outbox WHERE reference = 'O-next'});
		$session->close;
		$are_aside->('truncated');
	};

	subtest 'fault 83: TRUNCATE of one of the tables, in any way' => sub {
		my %ways = (
			'the attempts alone' => 'TRUNCATE tegro_event',
			'the requests alone' => 'TRUNCATE tegro_outbox',
			'as a replica' => 'SET session_replication_role = replica; TRUNCATE tegro_outbox',
		);
		foreach my $way (sort keys %ways)
		{
			my $number = $node->safe_psql('postgres', 'SELECT number FROM tegro_origin');
			$node->safe_psql('postgres', $ways{$way});
			isnt($node->safe_psql('postgres', 'SELECT number FROM tegro_origin'), $number, $way);
		}
		my $number = $node->safe_psql('postgres', 'SELECT number FROM tegro_origin');
		my $session = session($node);
		$session->query('BEGIN; TRUNCATE tegro_outbox');
		$session->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "O-gone", "amount": 1, "currency": "RUB"}')});
		$session->query('ROLLBACK');
		is($node->safe_psql('postgres', 'SELECT number FROM tegro_origin'), $number, 'what is rolled back draws none');
		$session->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "O-stays", "amount": 1, "currency": "RUB"}')});
		like($node->safe_psql('postgres', q{SELECT origin FROM tegro_outbox WHERE reference = 'O-stays'}), qr/$number/,
			'and the session that did it goes on under the old one');
		$session->close;
		$node->safe_psql('postgres', 'TRUNCATE tegro_outbox');
	};

	subtest 'fault 83: the trigger is missing or off' => sub {
		my $enqueue = q{SELECT tegro_enqueue('createOrder', '{"order_id": "O-guarded", "amount": 1, "currency": "RUB"}')};

		foreach my $table (qw(tegro_outbox tegro_event))
		{
			foreach my $how ('DISABLE TRIGGER USER', 'ENABLE TRIGGER USER', '')
			{
				$node->safe_psql('postgres', $how ? "ALTER TABLE $table $how" : "DROP TRIGGER ${table}_truncated ON $table");
				my $result = query($node, $enqueue);
				is($result->{sqlstate}, 'TG006', "nothing is recorded after $table: " . ($how || 'DROP TRIGGER'));
				my ($command) = ($result->{hint} // '') =~ /: (.*)/s;
				my $said = $node->safe_psql('postgres', q{SET tegro.timeout = '1min'; SELECT hint FROM tegro_doctor() WHERE "check" = 'tables'});
				is($said, $command, 'the doctor names the same command');
				$node->safe_psql('postgres', $command);
				is(query($node, $enqueue)->{err}, '', 'which helps');
			}
		}
		# a function of another kind under that name
		$node->safe_psql('postgres', <<'END');
DROP TRIGGER tegro_outbox_truncated ON tegro_outbox;
CREATE TRIGGER tegro_outbox_truncated AFTER TRUNCATE ON tegro_outbox EXECUTE FUNCTION suppress_redundant_updates_trigger();
END
		like(query($node, $enqueue)->{message}, qr/is not the extension's own/, 'another trigger of that name does not do');
		$node->safe_psql('postgres', 'DROP EXTENSION tegro; CREATE EXTENSION tegro');
	};

	subtest 'fault 47: rows of another database' => sub {
		database($node, $_) foreach qw(theirs ours);
		set($node, 'tegro.delivery', q{'on'});
		enqueue_in($node, 'ours', 'createOrder', 'O-ours');
		ok(becomes($node, 'ours', 'O-ours', 'accepted'), 'a database has delivered');
		set($node, 'tegro.delivery', q{'off'});
		$node->safe_psql('theirs', q{SELECT setval('tegro_outbox_id_seq', 100)});
		enqueue_in($node, 'theirs', 'createOrder', 'O-theirs');
		enqueue_in($node, 'theirs', 'createWithdrawal', 'W-theirs');
		$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('theirs') ], 'another is dumped');
		restore($node, 'ours', $dump, '--data-only');
		set($node, 'tegro.delivery', q{'on'});
		ok(becomes($node, 'theirs', $_, 'accepted'), "$_ is delivered where it was enqueued") foreach qw(O-theirs W-theirs);
		enqueue_in($node, 'ours', 'createOrder', 'O-again');
		ok(becomes($node, 'ours', 'O-again', 'accepted'), 'the database goes on');
		is(asides($node, 'ours'), 2, 'and the rows of the other are aside in it');
		is(executed($sandbox, $_), 1, "$_ was executed once") foreach qw(O-theirs W-theirs);
	};
	$node->stop;
});


#
# What else is kept over a take-over
#

story('fault 53: deliver_after', sub {
	my ($sandbox) = @_;
	my $node = primary('later', $sandbox);
	my $dir = PostgreSQL::Test::Utils::tempdir();

	database($node, 'source');
	enqueue_in($node, 'source', $_->[0], $_->[1], q{deliver_after => now() + interval '1 hour'})
	  foreach [ 'createOrder', 'O-later' ], [ 'createWithdrawal', 'W-later' ];
	my $after = $node->safe_psql('source', q{SELECT string_agg(deliver_after::text, ' ' ORDER BY id) FROM tegro_outbox});
	# due, for some other reason, so that it is set aside before it is taken over
	$node->safe_psql('source', 'UPDATE tegro_outbox SET next_at = now()');
	$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", $node->connstr('source') ], 'a dump');
	$node->safe_psql('postgres', 'CREATE DATABASE target');
	restore($node, 'target', "$dir/dump");
	$node->safe_psql('source', 'DROP EXTENSION tegro');
	my $before = requests($sandbox);
	set($node, 'tegro.delivery', q{'on'});
	query($node, 'CALL tegro_deliver()', database => 'target');
	is(asides($node, 'target'), 2, 'requests of a dump are set aside');
	$node->safe_psql('target', q{SELECT tegro_take_over('moved')});
	is($node->safe_psql('target', q{SELECT string_agg(next_at::text, ' ' ORDER BY id) FROM tegro_outbox}), $after,
		'one that was to wait still does after a take-over');
	query($node, 'CALL tegro_deliver()', database => 'target');
	is(requests($sandbox), $before, 'and is neither sent nor looked up before its time');
	$node->safe_psql('target', q{UPDATE tegro_outbox SET next_at = now(), deliver_after = now(), unknown_since = now()});
	query($node, 'CALL tegro_deliver()', database => 'target');
	ok(becomes($node, 'target', 'O-later', 'accepted'), 'the order is sent then');
	is(executed($sandbox, 'O-later') . executed($sandbox, 'W-later'), '10', 'and the payout is not');
	$node->stop;
});


#
# Another provider, another key
#

story('fault 55: what was sent to another address, or with another key', sub {
	my ($sandbox) = @_;
	my $node = primary('elsewhere_sent', $sandbox);
	my $other = sandbox();
	my $address = sub { set($node, 'tegro.api_url', "'" . $_[0]->api_url . "'"); };
	my $result;

	subtest 'fault 55: another address' => sub {
		$address->($other);
		set($node, 'tegro.delivery', q{'on'});
		$other->fault('createWithdrawal', 'execute_then_close');
		enqueue($node, 'createWithdrawal', 'W-there');
		ok(wait_until(sub { executed($other, 'W-there') }), 'a payout is sent to one address, and its answer is lost');
		set($node, 'tegro.delivery', q{'off'});
		enqueue($node, 'createWithdrawal', 'W-unsent');
		wait_until(sub { row($node, 'W-there')->{state} ne 'sending' });
		$node->safe_psql('postgres', q{UPDATE tegro_outbox SET state = 'unknown', next_at = now(), finished_at = NULL WHERE reference = 'W-there'});

		$address->($sandbox);
		my @before = map { requests($_) } $sandbox, $other;
		set($node, 'tegro.delivery', q{'on'});
		ok(wait_until(sub { asides($node) == 2 }), 'what was enqueued under another address is set aside');
		enqueue($node, 'createWithdrawal', 'W-here');
		wait_for_row($node, 'W-here', 'accepted');
		$result = query($node, q{SELECT tegro_take_over('another address')});
		like($result->{err}, qr/0 orders are looked up, 1 payouts are in review.*1 requests stay aside/s,
			'what was sent there stays aside after a take-over');
		is(row($node, 'W-there')->{aside}, 'origin', 'in its row');
		query($node, 'CALL tegro_deliver()');
		is(requests($sandbox, 'createWithdrawal') . ' ' . requests($other), "1 $before[1]", 'nothing is sent for it');
		is(scalar(grep { ($_->{params}{payment_id} // '') eq 'W-there' } $sandbox->journal), 0, 'nor looked up');
		my $doctor = $node->safe_psql('postgres', q{SELECT detail || hint FROM tegro_doctor() WHERE "check" = 'origin'});
		like($doctor, qr/sent to another address.*: 1\..*tegro_resolve/s, 'the doctor says what to do about it');
		$node->safe_psql('postgres', q{SELECT tegro_resolve(id, 'accepted', 'it was paid there') FROM tegro_outbox WHERE reference = 'W-there'});
		is(join(' ', map { $_ // '-' } @{ row($node, 'W-there') }{qw(state aside)}), 'accepted -', 'a person resolves it');
		is($node->safe_psql('postgres', q{SELECT status FROM tegro_doctor() WHERE "check" = 'origin'}), 'ok', 'then all is well');
		is(executed($sandbox, 'W-there'), 0, 'it was never sent here');
	};

	subtest 'fault 55: an address that comes back' => sub {
		set($node, 'tegro.delivery', q{'off'});
		enqueue($node, 'createWithdrawal', 'W-back');
		$address->($other);
		set($node, 'tegro.delivery', q{'on'});
		ok(wait_until(sub { (row($node, 'W-back')->{aside} // '') eq 'origin' }), 'a request is set aside');
		$address->($sandbox);
		query($node, q{SELECT tegro_take_over('it is back')});
		is(wait_for_row($node, 'W-back', 'accepted')->{state}, 'accepted', 'and sent once its address is back');
		is(executed($sandbox, 'W-back'), 1, 'once');
	};

	subtest 'fault 55: the key of a session' => sub {
		$sandbox->fault('createWithdrawal', 'execute_then_close');
		$result = query($node, q{SET tegro.api_key = 'another account'; } . withdraw('W-key'));
		is($result->{sqlstate}, 'TG003', 'a payout is sent with the key of a session, and its answer is lost');
		ok(wait_until(sub { asides($node) == 1 }), 'it is set aside');
		like(query($node, q{SELECT tegro_take_over('?')})->{err}, qr/1 requests stay aside/, 'and stays so');
		query($node, 'CALL tegro_deliver()');
		is(scalar(grep { ($_->{params}{payment_id} // '') eq 'W-key' } $sandbox->journal), 1, 'nobody looks it up with another key');
	};
	$node->stop;
});


#
# Roles
#

story('fault 71: roles', sub {
	my ($sandbox) = @_;
	my $node = primary('roles', $sandbox);
	my $dir = PostgreSQL::Test::Utils::tempdir();

	database($node, 'shop');
	$node->safe_psql('shop', <<'END');
CREATE ROLE seller;
CREATE ROLE stranger;
GRANT EXECUTE ON FUNCTION tegro_enqueue, tegro_create_withdrawal, tegro_on_payment, tegro_cancel TO seller;
GRANT USAGE ON SCHEMA public TO seller, stranger;
CREATE FUNCTION called(id bigint, state text, reference text, answer jsonb) RETURNS void LANGUAGE sql AS 'SELECT NULL::void';
SET ROLE seller;
SELECT tegro_on_payment('called(bigint, text, text, jsonb)');
END
	foreach my $request ([ 'createOrder', 'O-role' ], [ 'createWithdrawal', 'W-role' ])
	{
		my $arguments = TegroOutbox::enqueue_arguments(@$request);
		$node->safe_psql('shop', "SET ROLE seller; SELECT tegro_enqueue($arguments)");
	}
	my $dump = sub {
		my ($name) = @_;
		$node->command_ok([ 'pg_dump', '-Fc', '-x', '-O', '-f', "$dir/$name", $node->connstr('shop') ], "a dump: $name");
	};
	# as of a server where the role's number is another's
	$dump->('missing');
	my ($seller, $stranger) = split(/ /,
		$node->safe_psql('shop', q{SELECT 'seller'::regrole::oid || ' ' || 'stranger'::regrole::oid}));
	$node->safe_psql('shop', "UPDATE $_->[0] SET $_->[1] = $stranger")
	  foreach [ 'tegro_outbox', 'enqueued_by' ], [ 'tegro_payment_callback', 'role' ];
	$dump->('another');
	$node->safe_psql('postgres', 'DROP DATABASE shop WITH (FORCE)');

	subtest 'fault 71: the number is the one of another role' => sub {
		$node->safe_psql('postgres', 'CREATE DATABASE another');
		restore($node, 'another', "$dir/another");
		$node->safe_psql('another', 'GRANT SELECT ON tegro_outbox, tegro_payment_callback TO stranger, seller;'
			  . ' GRANT EXECUTE ON FUNCTION tegro_cancel, tegro_enqueue, tegro_on_payment TO stranger, seller');
		my $sees = sub { return $node->safe_psql('another',
			"SET ROLE $_[0]; SELECT (SELECT count(*) FROM tegro_outbox) || ' ' || (SELECT count(*) FROM tegro_payment_callback)"); };
		is($sees->('stranger'), '0 0', 'that role sees nothing');
		is(query($node, 'SET ROLE stranger; SELECT tegro_cancel(1)', database => 'another')->{sqlstate}, '42704', 'decides on nothing');
		my $arguments = TegroOutbox::enqueue_arguments('createOrder', 'O-role');
		is(query($node, "SET ROLE stranger; SELECT tegro_enqueue($arguments)", database => 'another')->{sqlstate}, 'TG007',
			'and does not get the request');
		is(query($node, "SET ROLE stranger; SELECT tegro_on_payment('called(bigint, text, text, jsonb)')", database => 'another')->{sqlstate},
			'42501', 'nor the payments');
		$node->safe_psql('another', q{SELECT tegro_take_over('moved')});
		is($sees->('stranger'), '0 0', 'nor after a take-over');
		is($sees->('seller'), '2 1', 'the role of that name does');
		is($node->safe_psql('another', q{SELECT string_agg(enqueued_by::regrole::text, ' ') FROM tegro_outbox}), 'seller seller',
			'whose requests they are now');
		$node->safe_psql('postgres', 'DROP DATABASE another WITH (FORCE)');
	};

	subtest 'fault 71: a role that is missing' => sub {
		$node->safe_psql('postgres', 'DROP ROLE seller');
		$node->safe_psql('postgres', 'CREATE DATABASE missing');
		restore($node, 'missing', "$dir/missing");
		is(states($node, 'missing'), 'O-role ready, W-role ready', 'all is loaded');
		is($node->safe_psql('missing', 'SET ROLE stranger; RESET ROLE; SELECT count(*) FROM tegro_outbox_summary'), 2,
			'and can be read');
		$node->safe_psql('missing', 'GRANT SELECT ON tegro_outbox TO stranger');
		is($node->safe_psql('missing', 'SET ROLE stranger; SELECT count(*) FROM tegro_outbox'), 0, 'by those who may');
		$node->safe_psql('missing', q{SELECT tegro_take_over('moved')});
		is($node->safe_psql('missing', q{SELECT string_agg(enqueued_by || ' ' || enqueued_by_name, ', ') FROM tegro_outbox}),
			'0 seller, 0 seller', 'after a take-over they are nobody\'s');
		set($node, 'tegro.delivery', q{'on'});
		query($node, 'CALL tegro_deliver()', database => 'missing');
		$node->poll_query_until('missing', q{SELECT bool_and(state = 'review') FROM tegro_outbox});
		is(states($node, 'missing'), 'O-role review, W-role review', 'and wait for a person');
		is(payouts_and_orders($sandbox), 0, 'nothing is sent');
		$node->safe_psql('missing', q{CREATE ROLE seller; GRANT SELECT ON tegro_outbox TO seller});
		is($node->safe_psql('missing', 'SET ROLE seller; SELECT count(*) FROM tegro_outbox'), 0,
			'a new role of that name does not inherit them');
	};
	$node->stop;
});

# As set(), of a server that does not run yet.
sub set_delivery
{
	my ($node, $value) = @_;

	$node->append_conf('postgresql.conf', "tegro.delivery = $value");
	return;
}

done_testing();
