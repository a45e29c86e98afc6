# 109_retention.pl: stripped requests, and what still knows them.
#
# References of stripped requests stay known after each way to dump and restore:
# the key of their hashes goes with the data.  A late answer does not bring back
# what was erased.

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
# an answer is listened to until 2 s before a claim ends
my $node = outbox_cluster('retention', $sandbox, conf => "tegro.claim_timeout = '12s'\n");
my $dir = PostgreSQL::Test::Utils::tempdir();

sub order
{
	my ($reference, $amount) = @_;

	return qq{SELECT tegro_enqueue('createOrder', '{"order_id": "$reference", "amount": $amount, "currency": "RUB"}')};
}

# The same request is found, another one is not taken.
sub knows
{
	my ($database, $reference, $name) = @_;
	my $session = session($node, database => $database);
	my $id = $session->query("SELECT id FROM tegro_outbox WHERE reference = '$reference' AND params IS NULL")->{out};

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	isnt($id, '', "$name: $reference is stripped");
	is($session->query(order($reference, '5.00'))->{out}, $id, "$name: the same order is that request");
	is($session->query(order($reference, 6))->{sqlstate}, 'TG007', "$name: another one is refused");
	$session->close;
	return;
}

# An order that is sent, accepted and forgotten.
sub stripped
{
	my ($database, $reference) = @_;
	my $session = session($node, database => $database);
	my $id = $session->query(order($reference, 5))->{out};

	$node->poll_query_until($database, "SELECT state = 'accepted' FROM tegro_outbox WHERE id = $id") or die 'not delivered';
	is($session->query("SELECT tegro_forget($id, 'asked for')")->{sqlstate}, '', "$reference is forgotten");
	$session->close;
	return;
}

sub restore
{
	my ($database, @options) = @_;

	return $node->command_ok([ 'pg_restore', '--exit-on-error', @options, '-d', $node->connstr($database), "$dir/dump" ],
		join(' ', 'pg_restore', @options));
}

# Neither the workers nor delivery are of interest any more.
sub end_workers
{
	set_server($node, { 'tegro.delivery' => 'off' });
	$node->safe_psql('template1', q{SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE backend_type LIKE 'tegro %worker'});
	return;
}

subtest 'a late answer brings nothing back' => sub {
	my $session = session($node);

	# no answer within tegro.timeout, and no lookup tells; the answer comes before
	# the claim ends
	$sandbox->fault('order', 'answer', status => 500, body => 'none', times => -1);
	$sandbox->fault('createOrder', 'execute_then_hold', ms => 5000);
	my $id = $session->query(order('late', 5))->{out};
	wait_until(sub { sleep 0.02; return $session->query("SELECT state FROM tegro_outbox WHERE id = $id")->{out} eq 'unknown'; });
	my $resolved = $session->query("SELECT tegro_resolve($id, 'refused', 'by telephone')");
	is($resolved->{sqlstate}, '', 'a person decides') or diag($resolved->{err});
	is($session->query("SELECT tegro_forget($id, 'asked for')")->{sqlstate}, '', 'it is forgotten while its answer is listened to');
	ok($node->poll_query_until('postgres', "SELECT state = 'accepted' FROM tegro_outbox WHERE id = $id"), 'the answer counts');
	$sandbox->clear_faults;
	is($session->query("SELECT params IS NULL AND answer IS NULL AND stripped_at IS NOT NULL FROM tegro_outbox WHERE id = $id")->{out},
		't', 'and is not kept');
	is($session->query("SELECT count(*) FROM tegro_event WHERE outbox_id = $id AND role_name IS NULL AND (message IS NOT NULL OR raw_answer IS NOT NULL)")->{out},
		0, 'nor are its words');
	$session->close;
};

subtest 'dumps' => sub {
	stripped('postgres', 'first');
	end_workers();
	$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", $node->connstr('postgres') ], 'a dump');

	$node->safe_psql('postgres', 'CREATE DATABASE copy');
	restore('copy');
	knows('copy', 'first', 'a new database');

	restore('copy', '--clean');
	knows('copy', 'first', 'over it');

	# its own rows and key are those of another database
	$node->safe_psql('postgres', 'CREATE DATABASE other');
	$node->safe_psql('other', 'CREATE EXTENSION tegro');
	set_server($node, { 'tegro.delivery' => undef });
	stripped('other', 'own');
	end_workers();
	is($node->safe_psql('other', 'SELECT count(*) FROM tegro_key'), 1, 'another database has a key of its own');
	$node->safe_psql('other', 'TRUNCATE tegro_event; CREATE TABLE kept AS SELECT * FROM tegro_outbox; TRUNCATE tegro_outbox');
	restore('other', '--data-only');
	is($node->safe_psql('other', 'SELECT count(*) FROM tegro_key'), 2, 'beside which the restored one stands');
	knows('other', 'first', 'rows of another database');
	$node->safe_psql('other', q{UPDATE kept SET id = id + 1000; INSERT INTO tegro_outbox OVERRIDING SYSTEM VALUE TABLE kept});
	knows('other', 'own', 'beside its own');
};

$node->stop;
done_testing();
