# 106_hostile_settings.pl: settings of roles and databases do not govern the
# workers.
#
# A worker connects as the superuser that initdb made.  Settings that would turn
# it against its purpose are given to that role in every way in which a catalog
# can: the worker must deliver as before, and a callback must see the same
# settings, and fire the same triggers, as before.  Of the settings of tegro,
# those of the database count.
#
# The sessions of this test begin before there are such settings, and keep their
# own.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use List::Util qw(max min);
use PostgreSQL::Test::Utils;
use Test::More;

use TegroTest;

my $sandbox = sandbox();
my $node = cluster('hostile', $sandbox, conf => <<'END');
max_worker_processes = 12
# what only the configuration file may decide
TimeZone = 'Asia/Tokyo'
# no standby is there to wait for
synchronous_commit = remote_apply
log_min_messages = notice
log_min_error_statement = fatal
log_min_duration_statement = 1h
lc_messages = 'C'
tegro.timeout = 5s
tegro.connect_timeout = 4s
tegro.read_retries = 3
tegro.max_concurrency = 9
END
my $version = $node->pg_version;
my $session = session($node);
my $owner = $session->query('SELECT quote_ident(rolname) FROM pg_roles WHERE oid = 10')->{out};

# What is set by catalogs, and what a callback must see instead.
my %hostile = (
	'session_replication_role' => [ 'replica', 'origin' ],
	'role' => [ 'nobody', 'none' ],
	'search_path' => [ 'evil, pg_catalog', 'pg_catalog, pg_temp' ],
	'row_security' => [ 'off', 'on' ],
	'default_transaction_read_only' => [ 'on', 'off' ],
	'default_transaction_isolation' => [ 'serializable', 'read committed' ],
	'default_transaction_deferrable' => [ 'on', 'off' ],
	'statement_timeout' => [ '1ms', '0' ],
	'lock_timeout' => [ '1ms', '0' ],
	'idle_in_transaction_session_timeout' => [ '1ms', '0' ],
	'idle_session_timeout' => [ '1ms', '0' ],
	($version >= 17 ? ('transaction_timeout' => [ '1ms', '0' ]) : ()),
	'exit_on_error' => [ 'on', 'off' ],
	'track_counts' => [ 'off', 'on' ],
	'client_encoding' => [ 'LATIN1', 'UTF8' ],
	'DateStyle' => [ 'SQL, DMY', 'ISO, MDY' ],
	'IntervalStyle' => [ 'iso_8601', 'postgres' ],
	'TimeZone' => [ 'America/New_York', 'Asia/Tokyo' ],
	'bytea_output' => [ 'escape', 'hex' ],
	'extra_float_digits' => [ '-15', '1' ],
	'array_nulls' => [ 'off', 'on' ],
	'transform_null_equals' => [ 'on', 'off' ],
	'quote_all_identifiers' => [ 'on', 'off' ],
	'enable_indexscan' => [ 'off', 'on' ],
	'plan_cache_mode' => [ 'force_custom_plan', 'auto' ],
	'synchronous_commit' => [ 'off', 'remote_apply' ],
	'lc_messages' => [ 'POSIX', 'C' ],
	'log_min_messages' => [ 'panic', 'notice' ],
	'log_min_error_statement' => [ 'debug5', 'fatal' ],
	'log_statement' => [ 'all', 'none' ],
	'log_min_duration_statement' => [ '0', '1h' ],
	'track_activities' => [ 'off', 'on' ],
	'tegro.timeout' => [ '1ms', '5s' ],
	'tegro.connect_timeout' => [ '1ms', '4s' ],
	'tegro.read_retries' => [ '0', '3' ],
	'tegro.max_concurrency' => [ '1', '9' ],
	'tegro.shop_id' => [ 'of nobody', SHOP_ID ]);
my @names = sort keys %hostile;

# The shop: what is called back notes what it sees; the shop's trigger notes
# what was inserted.
{
	my $settings = join(', ', map { "'$_'" } @names);
	my $result = $session->query(<<"END");
CREATE ROLE nobody;
CREATE ROLE shop LOGIN;
CREATE SCHEMA shop AUTHORIZATION shop;
CREATE SCHEMA evil;
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE TABLE evil.tegro_outbox (id bigint);
GRANT USAGE ON SCHEMA evil TO PUBLIC;
GRANT EXECUTE ON FUNCTION tegro_enqueue(text, jsonb, regprocedure, timestamptz), tegro_create_withdrawal(jsonb) TO shop;
SET ROLE shop;
CREATE TABLE shop.told (reference text, name text, value text, role text);
CREATE TABLE shop.entered (reference text);
CREATE FUNCTION shop.enter() RETURNS trigger LANGUAGE plpgsql
	AS 'BEGIN INSERT INTO shop.entered VALUES (NEW.reference); RETURN NULL; END';
CREATE TRIGGER enter AFTER INSERT ON shop.told FOR EACH ROW WHEN (NEW.name = '$names[0]') EXECUTE FUNCTION shop.enter();
CREATE FUNCTION shop.called(id bigint, state text, reference text, answer jsonb) RETURNS void LANGUAGE plpgsql
	AS 'BEGIN
		INSERT INTO shop.told SELECT \$3, n, pg_catalog.current_setting(n), current_user
			FROM pg_catalog.unnest(ARRAY[@{[ $settings =~ s/'/''/gr ]}]) AS n; END';
CREATE FUNCTION shop.fails(id bigint, state text, reference text, answer jsonb) RETURNS void LANGUAGE plpgsql
	AS 'BEGIN RAISE EXCEPTION ''refused by the shop''; END';
RESET ROLE
END
	BAIL_OUT($result->{err}) if $result->{err} ne '';
}
my $shop = session($node, user => 'shop');

sub ask
{
	my ($method, $reference, $callback) = @_;
	my $result = $shop->query(sprintf(
		q{SELECT tegro_enqueue('%s', '{"%s": "%s", "account": "4100", "amount": 1, "currency": "RUB"}', %s)},
		$method, $method eq 'createOrder' ? 'order_id' : 'payment_id', $reference,
		$callback ? "'shop.$callback(bigint,text,text,jsonb)'" : 'NULL'));

	die $result->{err} if $result->{err} ne '';
	return;
}

sub comes_true
{
	my ($condition) = @_;

	return wait_until(sub { return $session->query("SELECT $condition")->{out} eq 't' }, 30);
}

# Ends the workers, so that the next begin with the settings of now.
sub end_workers
{
	my $workers = q{FROM pg_stat_activity WHERE backend_type LIKE 'tegro % worker'};
	my $pids = $session->query("SELECT coalesce(string_agg(pid::text, ','), '0') $workers")->{out};

	# from 19 on others take their place at once, if there is anything to do
	$session->query("SELECT pg_terminate_backend(pid, 5000) $workers");
	return comes_true("count(*) = 0 $workers AND pid IN ($pids)");
}

# Orders and payouts go out, and callbacks see what they must; %more are other
# values that they must see.
my $run = 0;

sub is_served
{
	my (%more) = @_;
	my $id = ++$run;
	my $from = -s $node->logfile;

	$sandbox->begin;
	ok(end_workers(), 'the workers begin anew');
	ask('createOrder', "order $id", 'called');
	ask('createWithdrawal', "payout $id");
	ok(comes_true("count(*) = 2 FROM tegro_outbox WHERE reference IN ('order $id', 'payout $id') AND state = 'accepted'"),
		'an order and a payout are delivered')
	  or return diag($session->query("SELECT reference, state, message FROM tegro_outbox WHERE reference LIKE '% $id'")->{out});
	is(scalar($sandbox->journal(executed => 1)), 2, 'each was executed once');

	ok(comes_true("count(*) > 0 FROM shop.told WHERE reference = 'order $id'"), 'its function is called') or return;
	my %told = map { split(/=/, $_, 2) }
	  split(/\n/, $session->query("SELECT name || '=' || value FROM shop.told WHERE reference = 'order $id'")->{out});
	my %expected = map { $_ => $more{$_} // $hostile{$_}[1] } @names;
	is_deeply(\%told, \%expected, 'it sees the settings that it must');
	is($session->query("SELECT DISTINCT role FROM shop.told WHERE reference = 'order $id'")->{out},
		'shop', 'as the role that enqueued');
	is($session->query("SELECT count(*) FROM shop.entered WHERE reference = 'order $id'")->{out},
		'1', "what it inserts fires the shop's trigger");

	# several at once: the sandbox answers after a while
	$sandbox->fault('createOrder', 'hold', ms => 800, times => 4);
	$shop->query('BEGIN');
	ask('createOrder', "order $id-$_") foreach 1 .. 4;
	$shop->query('COMMIT');
	ok(comes_true("count(*) = 4 FROM tegro_outbox WHERE reference LIKE 'order $id-%' AND state = 'accepted'"),
		'four more orders are delivered');
	my @at = map { $_->{time} } grep { $_->{body} =~ /order $id-/ } $sandbox->journal(verdict => 'fault');
	is(scalar(@at), 4, 'each was sent once');
	cmp_ok(own_ms(min(@at), max(@at)), '<', 800, 'all at the same time');
	$sandbox->clear_faults;

	# what a worker has to say is in the log
	my $pid = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'tegro callback worker'};
	my $before = $session->query($pid)->{out};
	ask('createOrder', "fails $id", 'fails');
	ok(comes_true("callback_message = 'refused by the shop' FROM tegro_outbox WHERE reference = 'fails $id'"),
		'a callback that fails is on record');
	ok(wait_until(sub { return slurp_file($node->logfile, $from) =~ /LOG:  callback \S+ failed for request \d+ .*: refused by the shop/ }, 10),
		'and in the log');
	is($session->query($pid)->{out}, $before, 'the worker goes on after an error');
	$session->query("UPDATE tegro_outbox SET callback_state = 'done', callback_at = NULL WHERE reference = 'fails $id'");

	# a payout at once is a worker's, too
	like($shop->query(
			qq{SELECT tegro_create_withdrawal('{"payment_id": "at once $id", "currency": "RUB", "amount": 1, "account": "4100"}')})->{out},
		qr/"success"/, 'a payout at once is made');
	return;
}

subtest 'without such settings' => sub { is_served(); };

# Each way to set them, and how it is taken back.
my @ways = (
	[ "ALTER ROLE $owner" ],
	[ "ALTER ROLE $owner IN DATABASE postgres" ],
	[ 'ALTER ROLE ALL' ],
	[ "ALTER ROLE $owner", "ALTER ROLE $owner IN DATABASE postgres", 'ALTER ROLE ALL' ]);

sub set_all
{
	my ($how, @of) = @_;
	my @errors;

	foreach my $name (@of)
	{
		my $value = $name eq 'search_path' ? $hostile{$name}[0] : "'$hostile{$name}[0]'";

		push @errors, $session->query("$how SET $name = $value")->{err};
	}
	is(join('', @errors), '', "$how SET");
	return;
}

foreach my $way (@ways)
{
	subtest 'fault 54: ' . join(', ', @$way) => sub {
		set_all($_, @names) foreach @$way;
		is_served();
		is($session->query("$_ RESET ALL")->{err}, '', "$_ RESET ALL") foreach @$way;
	};
}

# A database may have a shop, and timeouts, of its own; all else of it does not
# count either.
{
	my @tegro = grep { /^tegro/ } @names;
	my @others = grep { !/^tegro/ } @names;
	my %of_database = ('tegro.timeout' => '4444ms', 'tegro.max_concurrency' => '7', 'tegro.shop_id' => 'of the database');
	my $set = sub {
		is($session->query("ALTER DATABASE postgres SET $_ = '$of_database{$_}'")->{err}, '', "the database has $_")
		  foreach sort keys %of_database;
	};

	subtest 'fault 54: ALTER DATABASE' => sub {
		set_all('ALTER DATABASE postgres', @others);
		$set->();
		is_served(%of_database);
	};
	subtest 'fault 54: ALTER DATABASE counts for tegro, whatever the role has' => sub {
		foreach my $how ("ALTER ROLE $owner", "ALTER ROLE $owner IN DATABASE postgres", 'ALTER ROLE ALL')
		{
			set_all($how, @tegro);
			is_served(%of_database);
			is($session->query("$how RESET ALL")->{err}, '', "$how RESET ALL");
		}
	};
	$session->query('ALTER DATABASE postgres RESET ALL');
}

$_->close foreach $session, $shop;
$node->stop;
done_testing();
