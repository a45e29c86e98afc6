# pgbouncer.pl: calls and the outbox through PgBouncer that gives each
# transaction another session.  Run by script/matrix, which has PgBouncer.

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

my ($bouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
BAIL_OUT('pgbouncer is missing') unless $bouncer;

my $sandbox = sandbox();
my $node = outbox_cluster('pooled', $sandbox);
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $port = PostgreSQL::Test::Cluster::get_free_port();

TegroTest::spew("$dir/pgbouncer.ini", <<"END");
[databases]
postgres = host=@{[ $node->host ]} port=@{[ $node->port ]} dbname=postgres
[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $dir
auth_type = any
pool_mode = transaction
default_pool_size = 1
ignore_startup_parameters = extra_float_digits, options
logfile = $dir/log
pidfile = $dir/pid
END
# auth_type any takes the user of the server's side from the database's line
my $user = $node->safe_psql('postgres', 'SELECT current_user');
{
	my $ini = TegroTest::slurp("$dir/pgbouncer.ini") =~ s/^(postgres = .*)$/$1 user=$user/mr;
	TegroTest::spew("$dir/pgbouncer.ini", $ini);
}
my $pid = fork() // die "could not fork: $!";
if ($pid == 0)
{
	open(STDOUT, '>', "$dir/out");
	open(STDERR, '>&', \*STDOUT);
	exec($bouncer, "$dir/pgbouncer.ini") or POSIX::_exit(127);
}

END
{
	my $status = $?;

	kill('TERM', $pid) if $pid;
	waitpid($pid, 0) if $pid;
	$? = $status;
}

wait_until(sub { -S "$dir/.s.PGSQL.$port" }, 10) or BAIL_OUT('pgbouncer did not start: ' . TegroTest::slurp("$dir/out"));

# What a node is to session(): only its connection string counts.
{
	package Bouncer;

	sub connstr
	{
		my ($self, $database) = @_;

		return "host=$dir port=$port dbname=$database user=$user";
	}

	sub isa { return 0; }
}
my ($one, $two) = map { session(bless({}, 'Bouncer')) } 1, 2;

is($one->query('SELECT tegro_balance() IS NOT NULL')->{out}, 't', 'a call');
is($one->query('SELECT pg_backend_pid()')->{out}, $two->query('SELECT pg_backend_pid()')->{out},
	'both clients have the same session, in turn');

# what one client sets for a transaction is not the other's
is($one->query(q{BEGIN; SET LOCAL tegro.shop_id = 'another'; SET LOCAL tegro.api_key = 'secret';
		SELECT url FROM tegro_preview('balance'); COMMIT})->{sqlstate}, '', 'settings of a transaction');
is($two->query('SHOW tegro.shop_id')->{out}, SHOP_ID, 'end with it');
is($two->query('SELECT tegro_balance() IS NOT NULL')->{out}, 't', 'and the other calls as its own shop');

# the outbox
$one->query('BEGIN');
$one->query('SELECT tegro_enqueue(' . enqueue_arguments('createOrder', 'pooled') . ')');
$one->query('COMMIT');
ok( wait_until(
		sub {
			sleep 0.05;
			return $two->query(q{SELECT state FROM tegro_outbox WHERE reference = 'pooled'})->{out} eq 'accepted';
		}),
	'a request is delivered');
$one->query('BEGIN');
$one->query('SELECT tegro_enqueue(' . enqueue_arguments('createOrder', 'pooled never') . ')');
$one->query('ROLLBACK');
like(
	$two->query(q{SELECT tegro_create_withdrawal('{"payment_id": "pooled", "currency": "RUB", "amount": 1, "account": "1"}')})->{out},
	qr/"success"/, 'a synchronous payout');
my $id = $two->query('SELECT tegro_enqueue(' . enqueue_arguments('createOrder', 'pooled 2') . ')')->{out};
like($one->query("SELECT tegro_wait($id)")->{out}, qr/"success"/, 'tegro_wait');
is(executions($sandbox)->{'createOrder pooled never'}, undef, 'what was rolled back is not sent');
is_deeply(
	executions($sandbox),
	{ 'createOrder pooled' => 1, 'createOrder pooled 2' => 1, 'createWithdrawal pooled' => 1 },
	'and all else once');

# a client that goes away in the midst of a call takes its session with it
$sandbox->fault('balance', 'hold', ms => 60_000);
$one->send('SELECT tegro_balance()');
sleep 0.5;
kill('KILL', $one->{psql});
is($two->query('SELECT tegro_balance() IS NOT NULL')->{out}, 't', 'a client that is gone holds up nobody');
$two->close;
$node->stop;
done_testing();
