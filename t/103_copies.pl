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

# A primary with an empty outbox, which is in use, unless it is to be "unused";
# its delivery is off.
sub primary
{
	my ($name, $sandbox, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init_from_backup($origin, 'empty');
	$node->append_conf('postgresql.conf', "tegro.api_url = '" . $sandbox->api_url . "'");
	$node->append_conf('postgresql.conf', 'tegro.delivery = off') if $options{unused};
	$node->enable_archiving if $options{archiving};
	$node->start;
	if (!$options{unused})
	{
		query($node, 'CALL tegro_deliver()');
		set($node, 'tegro.delivery', q{'off'});
	}
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

sub requests
{
	my ($sandbox, @methods) = @_;
	my %wanted = map { ($_ => 1) } @methods;

	return scalar(grep { !@methods || $wanted{ $_->{method} } } $sandbox->journal);
}

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
	is(states($old), 'O-answered done, O-lost unknown, W-answered done, W-lost unknown, W-resent unknown',
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
	is($new->safe_psql('postgres', 'SELECT count(*) FROM tegro_origin'), 1, 'there is one origin');
	like($new->safe_psql('postgres', 'SELECT reason FROM tegro_origin'), qr/failover or restore/,
		'which says how it came about');
	ok($new->log_contains(qr/follows .* after a failover or restore/), 'the log says it too');

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
# The same, of an outbox from which nothing was ever delivered
#

story('fault 9: an unused outbox', sub {
	my ($sandbox) = @_;
	my $old = primary('first', $sandbox, unused => 1);

	enqueue($old, 'createOrder', 'O');
	enqueue($old, 'createWithdrawal', 'W');
	my $new = copy_of($old, 'second', streaming => 1, conf => 'tegro.delivery = on');
	cut_off($old, $new);
	set($old, 'tegro.delivery', q{'on'});
	wait_for_row($old, $_, 'accepted') foreach qw(O W);
	$new->promote;
	ok(wait_until(
			sub {
				sleep 0.1;
				return $new->safe_psql('postgres',
					q{SELECT count(*) FROM tegro_outbox WHERE state = 'accepted' AND message ~ 'found by lookup'}) == 2;
			},
			30),
		'what was waiting when the first delivery was lost with the old primary is looked up, too');
	is(executed($sandbox, $_), 1, "$_ was executed once") foreach qw(O W);
	kill_server($old);
	$new->stop;
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
	is(states($lost), 'W-sent done, W-refused failed, O-sent done, W-waiting ready',
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
	my $before = requests($sandbox);

	ok(wait_until(sub { $copy->log_contains(qr/delivery of the tegro outbox is held/) }),
		'a copy of a data directory says in the log that delivery is held');
	my $result = query($copy, 'CALL tegro_deliver()');
	like($result->{err}, qr/WARNING:.*delivery of the tegro outbox is held/, 'tegro_deliver() says so too');
	like($result->{err}, qr/HINT:.*tegro_take_over/, 'and what ends it');
	$result = query($copy, withdraw('W-direct'));
	is($result->{sqlstate}, 'TG006', 'a synchronous payout is refused there');
	like($result->{message}, qr/held/, 'with the reason');
	is($copy->safe_psql('postgres', q{SELECT count(*) FROM tegro_outbox WHERE reference = 'W-direct'}), 0,
		'and leaves nothing behind');
	enqueue($copy, 'createWithdrawal', 'W-new');
	sleep 1;
	is(requests($sandbox), $before, 'the copy sends nothing, and looks nothing up');
	$copy->restart;
	$copy->poll_query_until('postgres', 'SELECT true');
	sleep 1;
	is(requests($sandbox), $before, 'nor does it after another start');

	# the source goes on, and is then replaced by the copy
	$source->safe_psql('postgres', q{SELECT tegro_cancel(id) FROM tegro_outbox WHERE reference LIKE '%-never'});
	set($source, 'tegro.delivery', q{'on'});
	wait_for_row($source, $_, 'accepted') foreach qw(O-sent W-sent);
	$source->stop;
	$result = query($copy, q{SELECT tegro_take_over('the source is gone')});
	like($result->{err}, qr/2 orders are looked up, 2 payouts are in review/, 'tegro_take_over() says what follows');
	is(wait_for_row($copy, 'W-new', 'accepted')->{state}, 'accepted', 'what was enqueued in the copy is sent then');
	is(wait_for_row($copy, $_, 'accepted')->{state}, 'accepted', "$_ is found") foreach qw(O-sent W-sent);
	is(wait_for_row($copy, 'O-never', 'accepted')->{state}, 'accepted', 'an order that was never sent is sent');
	is(row($copy, 'W-never')->{state}, 'review', 'a payout that was never sent waits for a person');
	is(executed($sandbox, $_->[0]), $_->[1], "$_->[0] was executed $_->[1] times")
	  foreach [ 'O-sent', 1 ], [ 'W-sent', 1 ], [ 'O-never', 1 ], [ 'W-never', 0 ], [ 'W-new', 1 ];
	is(query($copy, withdraw('W-direct'))->{sqlstate}, '', 'a synchronous payout is carried out there now');
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
	is($node->safe_psql('unused', 'SELECT count(*) FROM tegro_origin'), 0,
		'one database was never delivered from');

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
		my $result = query($where, 'CALL tegro_deliver()', database => $database);

		like($result->{err}, qr/WARNING:.*delivery of the tegro outbox is held/, "$name is held");
		$result = query($where, q{SELECT tegro_enqueue('createOrder', '{"order_id": "new", "amount": 1, "currency": "RUB"}')},
			database => $database);
		is($result->{out}, $id + 1, "the numbers go on in $name");
		$result = query($where, withdraw('direct'), database => $database);
		is($result->{sqlstate}, 'TG006', "a synchronous payout is refused in $name");
		my $used = $database =~ /unused/ ? 'W-unused' : 'W-used';
		$result = query($where,
			qq{SELECT tegro_enqueue('createWithdrawal', '{"payment_id": "$used", "amount": 11, "currency": "RUB", "account": "4111"}')},
			database => $database);
		is($result->{sqlstate}, 'TG007', "the references still count in $name");
	}
	sleep 1;
	is(requests($sandbox), $before, 'no copy sends or looks up anything');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'tegro delivery worker' AND datname ~ '^(template|restored)_'}), 0,
		'and no worker stays in a copy');
	$_->close foreach @locks;
	query($node, 'CALL tegro_deliver()', database => $_) foreach sort keys %waiting;
	is(wait_for_row($node, $_, 'accepted')->{state}, 'accepted', "$_ is sent by the source") foreach @{ $waiting{postgres} };
	$node->poll_query_until('unused', q{SELECT count(*) = 2 FROM tegro_outbox WHERE state = 'accepted'});
	is(executed($sandbox, $_), 1, "$_ was executed once") foreach map { @$_ } values %waiting;

	# one of them takes over
	my $result = query($other, q{SELECT tegro_take_over('moved')}, database => 'restored_unused');
	like($result->{err}, qr/1 orders are looked up, 1 payouts are in review/, 'a restored dump can be armed');
	ok($other->poll_query_until('restored_unused',
			q{SELECT count(*) = 2 FROM tegro_outbox WHERE state = 'accepted' AND reference LIKE '%-unused'}),
		'and finds what its source has sent');
	is(executed($sandbox, $_), 1, "$_ was executed once") foreach map { @$_ } values %waiting;
	$node->stop;
	$other->stop;
});

# As set(), of a server that does not run yet.
sub set_delivery
{
	my ($node, $value) = @_;

	$node->append_conf('postgresql.conf', "tegro.delivery = $value");
	return;
}

done_testing();
