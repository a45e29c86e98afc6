# upgrade.pl: pg_upgrade with requests that wait.  Run by script/matrix, which has
# the old PostgreSQL: its installation is in TEGRO_OLD_INSTALLATION, the folder of
# its bin, with the extension in it.  Without that, from this version to itself.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use TegroTest;
use TegroOutbox;

my $sandbox = sandbox();
my $old_installation = $ENV{TEGRO_OLD_INSTALLATION};
my @old = $old_installation ? (install_path => $old_installation) : ();
my $conf = "shared_preload_libraries = 'tegro'\ntegro.shop_id = '" . SHOP_ID . "'\ntegro.api_url = '" . $sandbox->api_url . "'\n"
	. "tegro.credentials_file = '"
	. TegroTest::spew(PostgreSQL::Test::Utils::tempdir() . '/credentials', join(':', SHOP_ID, '*', API_KEY, SECRET_KEY) . "\n", 0600)
	. "'\ntegro.review_after = '3s'\n";

# A cluster like the other one: checksums are on by default from 18 on.
sub new_cluster
{
	my ($name, @options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, @options);

	$node->init(extra => [ '--encoding=UTF8', '--locale=C', '--auth=trust',
			$node->pg_version >= 18 ? '--no-data-checksums' : () ]);
	$node->append_conf('postgresql.conf', $conf);
	return $node;
}

my $old = new_cluster('old', @old);
my $new = new_cluster('new');

note('from ' . $old->pg_version . ' to ' . $new->pg_version);
$old->start;
$old->safe_psql('postgres', 'CREATE EXTENSION tegro');
$old->safe_psql('postgres', <<'END');
CREATE TABLE orders (id bigint PRIMARY KEY, total numeric, url text);
CREATE FUNCTION answered(id bigint, state text, reference text, answer jsonb) RETURNS void LANGUAGE sql AS
	'UPDATE public.orders SET url = answer #>> ''{data,url}'' WHERE orders.id = reference::bigint';
CREATE TRIGGER ask AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION
	tegro_create_order_trigger('{"order_id": "$id", "currency": "RUB", "amount": "$total"}', 'public.answered');
INSERT INTO orders VALUES (1, 5);
END
ok($old->poll_query_until('postgres', 'SELECT url IS NOT NULL FROM orders WHERE id = 1'), 'the old one delivers');

# with delivery off, so that they wait; one payout was sent, and its answer lost
$sandbox->fault('createWithdrawal', 'execute_then_close');
$old->safe_psql('postgres', 'SELECT tegro_enqueue(' . enqueue_arguments('createWithdrawal', 'sent') . ')');
ok($old->poll_query_until('postgres', "SELECT state <> 'ready' FROM tegro_outbox WHERE reference = 'sent'"),
	'a payout is sent');
$old->append_conf('postgresql.conf', 'tegro.delivery = off');
$old->reload;
sleep 1;
$old->safe_psql('postgres', 'INSERT INTO orders VALUES (2, 6)');
$old->safe_psql('postgres', 'SELECT tegro_enqueue(' . enqueue_arguments('createWithdrawal', 'waits') . ')');
# but for what setting a row aside changes
my $content = q{SELECT md5(string_agg(r, E'\n' ORDER BY r))
	FROM tegro_outbox t, LATERAL (SELECT (to_jsonb(t) - '{aside,next_at,callback_at,claimed_until}'::text[])::text) AS x (r)};
my $before = $old->safe_psql('postgres', $content);
my $origin = $old->safe_psql('postgres', 'SELECT t::text FROM tegro_origin t');
$old->stop;
# pg_upgrade starts both clusters: nothing is sent by either, though it may be
$old->append_conf('postgresql.conf', 'tegro.delivery = on');
my $journal = () = $sandbox->journal;

# in a folder that it may write to
chdir(PostgreSQL::Test::Utils::tempdir());
command_ok(
	[
		'pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir,
		'-b', $old_installation ? "$old_installation/bin" : $new->config_data('--bindir'),
		'-B', $new->config_data('--bindir'),
		'-s', $new->host, '-p', $old->port, '-P', $new->port ],
	'fault 82: pg_upgrade');
is((() = $sandbox->journal) - $journal, 0, 'fault 82: nothing came to the provider meanwhile');

$new->start;
is($new->safe_psql('postgres', $content), $before, 'the outbox is as it was');
is($new->safe_psql('postgres', 'SELECT t::text FROM tegro_origin t'), $origin, 'with its number');
is($new->safe_psql('postgres', 'SELECT tegro_balance() IS NOT NULL'), 't', 'calls work');
$new->safe_psql('postgres', 'CALL tegro_deliver()');
is($new->safe_psql('postgres', "SELECT count(*) FROM tegro_outbox WHERE aside = 'origin'"), 3,
	'what waited is set aside: the system is another');
sleep 1;
is(executions($sandbox)->{'createOrder 2'}, undef, 'really not');

is($new->safe_psql('postgres', "SELECT tegro_take_over('pg_upgrade')") // '', '', 'it is taken over');
$new->safe_psql('postgres', 'CALL tegro_deliver()');
ok($new->poll_query_until('postgres', 'SELECT url IS NOT NULL FROM orders WHERE id = 2'),
	'the order that waited is made, and its callback is called');
ok($new->poll_query_until('postgres', "SELECT state IN ('accepted', 'review') FROM tegro_outbox WHERE reference = 'sent'"),
	'the payout that was sent is settled');
ok($new->poll_query_until('postgres', "SELECT state = 'review' FROM tegro_outbox WHERE reference = 'waits'"),
	'the payout that waited is left to a person');
$new->safe_psql('postgres', 'INSERT INTO orders VALUES (3, 7)');
ok($new->poll_query_until('postgres', 'SELECT url IS NOT NULL FROM orders WHERE id = 3'), 'and new ones are delivered');
is_deeply(
	executions($sandbox),
	{ 'createOrder 1' => 1, 'createOrder 2' => 1, 'createOrder 3' => 1, 'createWithdrawal sent' => 1 },
	'each was carried out once');
$new->stop;
done_testing();
