# 302_binary_upgrade.pl: a server in binary-upgrade mode, as pg_upgrade starts
# both clusters, sends nothing, though a payout is due.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use TegroTest;
use TegroOutbox;

my $sandbox = sandbox();
my $node = outbox_cluster('upgraded', $sandbox);
my $answered = q{CREATE FUNCTION answered(id bigint, state text, reference text, answer jsonb) RETURNS void
	LANGUAGE sql AS $$ SELECT 1 $$};

# Requests that are due, a payout among them that was sent and needs a lookup,
# and a callback.
set_server($node, { 'tegro.review_after' => '1h' });
$node->safe_psql('postgres', $answered);
$sandbox->fault('createWithdrawal', 'execute_then_close');
$sandbox->fault('withdrawal', 'close_after_read', times => -1);
enqueue($node, 'createWithdrawal', 'payout-sent');
ok($node->poll_query_until('postgres', q{SELECT state = 'unknown' FROM tegro_outbox WHERE reference = 'payout-sent'}),
	'a payout was sent and is in doubt');
$node->append_conf('postgresql.conf', 'tegro.delivery = off');
reload_conf($node);
sleep 1;		# for the worker
enqueue($node, 'createWithdrawal', 'payout-due');
enqueue($node, 'createOrder', 'order-due');
$node->safe_psql('postgres', q{UPDATE tegro_outbox SET callback = 'public.answered(bigint,text,text,jsonb)',
	callback_state = 'waiting', callback_at = clock_timestamp() WHERE reference = 'payout-sent'});
$node->stop;
$node->append_conf('postgresql.conf', 'tegro.delivery = on');
$sandbox->clear_faults;
my $journal = () = $sandbox->journal;
my $due = q{SELECT string_agg(concat_ws(' ', reference, state, attempts, absent, callback_state), ',' ORDER BY id) FROM tegro_outbox};

subtest 'fault 82: postgres -b' => sub {
	command_ok(
		[ 'pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, '-o', '-b', 'start' ],
		'the server starts as pg_upgrade starts it');
	$node->_update_pid(1);
	my $before = $node->safe_psql('postgres', $due);
	like($before, qr/payout-due ready 0/, 'a payout is due');
	sleep 4;
	is($node->safe_psql('postgres', q{SELECT string_agg(backend_type, ',') FROM pg_stat_activity WHERE backend_type ~ 'tegro'}),
		'', 'no process of tegro runs');

	# nor does one of its functions send or wake anything
	my %said = (
		'a call' => 'SELECT tegro_balance()',
		'a payout' => q{SELECT tegro_create_withdrawal('{"payment_id": "payout-now", "amount": 1, "currency": "RUB", "account": "4111"}')});
	foreach my $what (sort keys %said)
	{
		my $result = query($node, $said{$what});

		is($result->{sqlstate}, 'TG002', "$what is not sent");
		like($result->{err}, qr/requests are not sent in binary-upgrade mode/, 'the error says why');
	}
	$node->psql('postgres', 'CALL tegro_deliver()');
	enqueue($node, 'createOrder', 'order-enqueued');
	sleep 1;
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'tegro'}),
		0, 'a commit that enqueues starts no worker');
	like($node->safe_psql('postgres', $due), qr/^\Q$before\E,order-enqueued ready 0/, 'nothing was delivered or called back');
	is((() = $sandbox->journal) - $journal, 0, 'nothing came to the provider');
	$node->stop;
};

$node->start;
ok( $node->poll_query_until(
		'postgres', q{SELECT bool_and(state = 'accepted') AND bool_or(callback_state = 'done') FROM tegro_outbox}),
	'afterwards all is delivered, looked up and called back');
check_outbox($node, $sandbox, 'the outbox agrees with the provider');
done_testing();
