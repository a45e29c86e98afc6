# 301_life.pl: an extension's life among all else that a database does: created
# and dropped in any order, dumped and restored, in a database that replicates
# its tables, that plans in parallel, that is not in UTF-8.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use TegroTest;
use TegroOutbox;

my $sandbox = sandbox();
my $node = outbox_cluster('life', $sandbox, conf => <<'END');
wal_level = logical
max_wal_senders = 4
max_worker_processes = 16
tegro.worker_idle_timeout = '1s'
END
my $serial = 0;

# A database of its own; its name.
sub database
{
	my ($options) = @_;
	my $name = 'life_' . ++$serial;

	$node->safe_psql('postgres', "CREATE DATABASE $name " . ($options // ''));
	return $name;
}

# The state of a request once it has one of an end; else what it has.
sub end_of
{
	my ($database, $reference) = @_;
	my $state = '';

	wait_until(
		sub {
			$state = $node->safe_psql($database, "SELECT state FROM tegro_outbox WHERE reference = '$reference'");
			sleep 0.05;
			return $state =~ /^(accepted|refused|review|cancelled)$/;
		});
	return $state;
}

sub executed
{
	my ($name) = @_;

	return executions($sandbox)->{$name} // 0;
}

# All that an extension could leave behind, of whatever kind.
my $traces = q{
	SELECT string_agg(what, ', ') FROM (
		SELECT 'class ' || relname AS what FROM pg_class WHERE relname ~ 'tegro'
		UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE proname ~ 'tegro'
		UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typname ~ 'tegro'
		UNION ALL SELECT 'policy ' || polname FROM pg_policy WHERE polname ~ 'tegro'
		UNION ALL SELECT 'extension ' || extname FROM pg_extension WHERE extname ~ 'tegro') t};

subtest 'created and dropped, again and again' => sub {
	my $database = database();
	my $before = session($node, database => $database);

	is($before->query('SELECT tegro_balance()')->{sqlstate}, '42883', 'nothing is there before');
	is($before->query('CREATE EXTENSION tegro')->{sqlstate}, '', 'it is created');
	is($before->query('CREATE EXTENSION tegro')->{sqlstate}, '42710', 'once only');
	enqueue($before, 'createOrder', 'life 1');
	is(end_of($database, 'life 1'), 'accepted', 'a request is delivered');

	# sessions that know the old one: a caller and, idle, the worker
	is($before->query('DROP EXTENSION tegro')->{sqlstate}, '', 'it is dropped');
	is($node->safe_psql($database, $traces), '', 'and leaves nothing behind');
	is($before->query('SELECT tegro_balance()')->{sqlstate}, '42883', 'its functions are gone');
	is($before->query('CREATE EXTENSION tegro')->{sqlstate}, '', 'it is created anew');
	enqueue($before, 'createOrder', 'life 2');
	is(end_of($database, 'life 2'), 'accepted', 'and the same session and worker deliver again');
	is($node->safe_psql($database, 'SELECT count(*) FROM tegro_outbox'), '1', 'it remembers nothing of its predecessor');

	# rolled back, either way
	$before->query('BEGIN');
	$before->query('DROP EXTENSION tegro');
	$before->query('CREATE EXTENSION tegro');
	enqueue($before, 'createOrder', 'life never');
	$before->query('ROLLBACK');
	is($before->query('SELECT count(*) FROM tegro_outbox')->{out}, '1', 'a DROP that is rolled back drops nothing');
	enqueue($before, 'createOrder', 'life 3');
	is(end_of($database, 'life 3'), 'accepted', 'and delivery goes on');
	is(executed('createOrder life never'), 0, 'what was rolled back is not sent');

	# in one transaction, with a request
	$before->query('BEGIN');
	$before->query('DROP EXTENSION tegro');
	$before->query('CREATE EXTENSION tegro');
	enqueue($before, 'createOrder', 'life 4');
	$before->query('COMMIT');
	is(end_of($database, 'life 4'), 'accepted', 'dropped, created and used in one transaction');

	# with what depends on it
	$before->query('CREATE TABLE orders (id bigint, total numeric)');
	$before->query(q[CREATE TRIGGER ask AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION
		tegro_create_order_trigger('{"order_id": "$id", "currency": "RUB", "amount": "$total"}')]);
	is($before->query('DROP EXTENSION tegro')->{sqlstate}, '2BP01', 'not while a trigger needs it');
	is($before->query('DROP EXTENSION tegro CASCADE')->{sqlstate}, '', 'but with it');
	is($before->query('INSERT INTO orders VALUES (1, 2)')->{sqlstate}, '', 'the table lives on');
	is($node->safe_psql($database, $traces), '', 'without a trace');
	$before->close;
};

subtest 'in a schema of its own, and there it stays' => sub {
	my $database = database();

	$node->safe_psql($database, 'CREATE SCHEMA pay; CREATE EXTENSION tegro SCHEMA pay');
	my $session = session($node, database => $database);
	is($session->query('ALTER EXTENSION tegro SET SCHEMA public')->{sqlstate}, '0A000', 'it can not be moved');
	is($session->query("SELECT tegro_preview('balance')")->{sqlstate}, '42883', 'it is not in the search path');
	is($session->query('SELECT count(*) FROM pay.tegro_balance()')->{out}, '1', 'it is called by its schema');
	$session->query('SELECT pay.tegro_enqueue(' . enqueue_arguments('createOrder', 'life schema') . ')');
	ok( wait_until(
			sub {
				$session->query("SELECT state FROM pay.tegro_outbox")->{out} eq 'accepted';
			}),
		'the worker finds it there');
	is($session->query('ALTER SCHEMA pay RENAME TO money')->{sqlstate}, '', 'the schema itself may be renamed');
	$session->query('SELECT money.tegro_enqueue(' . enqueue_arguments('createOrder', 'life renamed') . ')');
	ok( wait_until(
			sub {
				$session->query("SELECT count(*) FROM money.tegro_outbox WHERE state = 'accepted'")->{out} eq '2';
			}),
		'and the worker finds it again');
	is($session->query('SELECT money.tegro_balance() IS NOT NULL')->{out}, 't', 'so do calls');
	is($session->query('DROP SCHEMA money')->{sqlstate}, '2BP01', 'the schema stays while it is there');
	$session->close;
};

subtest 'dumped and restored' => sub {
	my $database = database();
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';

	$node->safe_psql($database, <<'END');
CREATE EXTENSION tegro;
CREATE ROLE life_clerk;
GRANT EXECUTE ON FUNCTION tegro_balance() TO life_clerk;
GRANT SELECT ON tegro_outbox TO life_clerk;
END
	my $source = session($node, database => $database);
	enqueue($source, 'createOrder', 'life dump done');
	is(end_of($database, 'life dump done'), 'accepted', 'one is done');
	# due later: they wait in the dump, and in the source
	foreach my $arguments (enqueue_arguments('createOrder', 'life dump order'),
		enqueue_arguments('createWithdrawal', 'life dump payout'))
	{
		$source->query("SELECT tegro_enqueue($arguments, deliver_after => now() + interval '1 day')");
	}

	$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr($database) ], 'pg_dump');
	my $copy = database();
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr($copy), $dump ], 'pg_restore');

	foreach my $table (qw(tegro_outbox tegro_event))
	{
		my $content = "SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM $table t";

		is($node->safe_psql($copy, $content), $node->safe_psql($database, $content), "$table is the same");
	}
	is($node->safe_psql($copy, q{SELECT has_function_privilege('life_clerk', 'tegro_balance()', 'EXECUTE')
			|| ' ' || has_table_privilege('life_clerk', 'tegro_outbox', 'SELECT')}),
		'true true', 'and so is what was granted');
	my $restored = session($node, database => $copy);
	my $last = $node->safe_psql($database, 'SELECT max(id) FROM tegro_outbox');
	cmp_ok(enqueue($restored, 'createOrder', 'life copy'), '>', $last, 'numbers go on');

	# a copy delivers what is its own
	is(end_of($copy, 'life copy'), 'accepted', 'its own request is delivered');
	$restored->query("UPDATE tegro_outbox SET next_at = now() WHERE state = 'ready'");
	$restored->query('CALL tegro_deliver()');
	is($restored->query("SELECT count(*) FROM tegro_outbox WHERE aside = 'origin'")->{out}, 2,
		'those of its source are set aside');
	is(executed('createOrder life dump order') + executed('createWithdrawal life dump payout'), 0, 'and not sent');

	# taken over, it pays nothing that its source may have paid
	$restored->query("UPDATE tegro_outbox SET deliver_after = NULL WHERE aside = 'origin'");
	is($restored->query("SELECT tegro_take_over('a restore')")->{sqlstate}, '', 'until they are taken over');
	$restored->query('CALL tegro_deliver()');
	is(end_of($copy, 'life dump payout'), 'review', 'a payout of its source waits for a person');
	is(executed('createWithdrawal life dump payout'), 0, 'and was not sent');

	# the same dump, over and over: into where the extension is already
	$node->command_ok(
		[ 'pg_restore', '--clean', '--if-exists', '--exit-on-error', '-d', $node->connstr($copy), $dump ],
		'pg_restore --clean');
	is($node->safe_psql($copy, 'SELECT count(*) FROM tegro_outbox'), '3', 'has the rows of the dump, once');
	$_->close foreach $source, $restored;
};

subtest 'plans in parallel' => sub {
	my $database = database();
	my $setting = $node->pg_version < 16 ? 'force_parallel_mode' : 'debug_parallel_query';

	$node->safe_psql($database, <<'END');
CREATE EXTENSION tegro;
CREATE TABLE big AS SELECT n, repeat('x', 100) AS filler FROM generate_series(1, 20000) n;
ANALYZE big;
END
	my $session = session($node, database => $database);
	$session->query($_)
	  foreach "SET $setting = on", 'SET parallel_setup_cost = 0', 'SET parallel_tuple_cost = 0',
	  'SET min_parallel_table_scan_size = 0';
	like($session->query('EXPLAIN SELECT count(*) FROM big')->{out}, qr/Gather/, 'there are parallel plans');
	my $query = 'FROM big WHERE n <= 2 AND tegro_preview(\'balance\') IS NOT NULL';
	unlike($session->query("EXPLAIN SELECT count(*) $query")->{out}, qr/Gather/, 'none with a call');
	is($session->query("SELECT count(*) $query")->{out}, '2', 'which works');

	# a statement that enqueues for what another finds in parallel
	$session->query('CREATE TABLE orders (id bigint, total numeric)');
	$session->query(q[CREATE TRIGGER ask AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION
		tegro_create_order_trigger('{"order_id": "$id", "currency": "RUB", "amount": "$total"}')]);
	is($session->query(q{INSERT INTO orders SELECT 700000 + n, 1 FROM big WHERE n % 2000 = 0})->{sqlstate}, '', 'a trigger');
	is($session->query(q{SELECT count(*) FROM tegro_outbox})->{out}, '10', 'enqueues all of them');
	is(end_of($database, '702000'), 'accepted', 'and they are delivered');
	$session->close;
};

subtest 'a shop\'s tables are replicated' => sub {
	my $tables = <<'END';
CREATE EXTENSION tegro;
CREATE TABLE orders (id bigint PRIMARY KEY, total numeric);
CREATE TRIGGER ask AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION
	tegro_create_order_trigger('{"order_id": "$id", "currency": "RUB", "amount": "$total"}');
END
	my ($from, $to) = (database(), database());

	$node->safe_psql($_, $tables) foreach $from, $to;
	# within a server the slot has to be there before
	$node->safe_psql($from, q{CREATE PUBLICATION shop FOR TABLE orders;
		INSERT INTO orders VALUES (800000, 5);
		SELECT pg_create_logical_replication_slot('shop', 'pgoutput')});
	my $connection = $node->connstr($from) =~ s/'/''/gr;
	$node->safe_psql($to, "CREATE SUBSCRIPTION shop CONNECTION '$connection' PUBLICATION shop WITH (slot_name = shop, create_slot = false)");
	$node->safe_psql($from, 'INSERT INTO orders SELECT 800000 + n, 5 FROM generate_series(1, 5) n');
	ok(wait_until(sub { $node->safe_psql($to, 'SELECT count(*) FROM orders') eq '6' }), 'the rows arrive');
	is(end_of($from, '800005'), 'accepted', 'the publisher delivers for them');
	is($node->safe_psql($to, 'SELECT count(*) FROM tegro_outbox'), '0', 'the subscriber enqueues nothing');
	is(executed('createOrder 800003'), 1, 'so that each is sent once');

	# where the subscriber is asked to: both deliver for the same rows, and the
	# number that they share is the provider's to tell apart
	$node->safe_psql($to, 'ALTER TABLE orders ENABLE REPLICA TRIGGER ask');
	$node->safe_psql($from, 'ALTER TABLE orders DISABLE TRIGGER ask');
	$node->safe_psql($from, 'INSERT INTO orders VALUES (800010, 5)');
	ok(wait_until(sub { $node->safe_psql($to, 'SELECT count(*) FROM tegro_outbox') eq '1' }),
		'a REPLICA trigger enqueues in the apply worker');
	is(end_of($to, '800010'), 'accepted', 'and its commit wakes delivery');
	is(executed('createOrder 800010'), 1, 'once');
	$node->safe_psql($to, 'DROP SUBSCRIPTION shop');
};

subtest 'the outbox of a LATIN1 database' => sub {
	my $database = database(q{ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0});

	$node->safe_psql($database, 'CREATE EXTENSION tegro');
	my $session = session($node, database => $database);
	$session->query("SELECT tegro_enqueue('createOrder', '{\"order_id\": \"Caf\xc3\xa9 1\", \"currency\": \"RUB\", \"amount\": 1}')");
	ok( wait_until(
			sub {
				$session->query('SELECT state FROM tegro_outbox')->{out} eq 'accepted';
			}),
		'a request with a character of its own is delivered');
	is($session->query('SELECT reference FROM tegro_outbox')->{out}, "Caf\xc3\xa9 1", 'as it is');
	is($session->query(q{SELECT tegro_order(payment_id => reference) #>> '{data,payment_id}' FROM tegro_outbox})->{out},
		"Caf\xc3\xa9 1", 'and found by it');
	is($session->query("SELECT tegro_enqueue('createOrder', '{\"order_id\": \"\\u0411\", \"currency\": \"RUB\", \"amount\": 1}')")->{sqlstate},
		'22P05', 'what it can not hold is refused where it comes in');
	$session->close;
};

$node->stop;
done_testing();
