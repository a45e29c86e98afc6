# 303_installcheck.pl: "make installcheck" runs no test against a server that is
# not made for it.
#
# script/installcheck, under which the Makefile runs pg_regress, is run with
# another command in its place.  Of the servers that it must refuse one has the
# provider's own address; no test may ever ask that one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use TegroTest;

my $root = "$FindBin::RealBin/..";

# The line that says what to do, with the script's name before it.
my $remedy = qr/^installcheck: make installcheck needs a server that preloads tegro .* "script\/server make installcheck" gives one$/m;

# Runs a command, the tests' stand-in, against a server.
sub installcheck
{
	my ($node, @command) = @_;
	my ($out, $err) = ('', '');

	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'postgres');
	IPC::Run::run([ "$root/script/installcheck", @command ], '<', \undef, '>', \$out, '2>', \$err);
	return { status => $? >> 8, out => $out, err => $err };
}

sub is_refused
{
	my ($node, $why) = @_;
	my $result = installcheck($node, 'echo', 'a test runs');

	is($result->{status}, 1, 'it fails');
	is($result->{out}, '', 'no test runs');
	like($result->{err}, qr/^installcheck: $why$/m, 'it says why');
	like($result->{err}, $remedy, 'it says what to do');
	return;
}

subtest 'the Makefile runs both kinds of tests under it' => sub {
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'make', '-n', '-C', $root, 'installcheck', map { "PG_CONFIG=$_" } $ENV{PG_CONFIG} // () ],
		'<', \undef, '>', \$out, '2>', \$err)
	  or diag($err);
	my @programs = $out =~ m{(\S* ?)\S*/(?:pg_regress|pg_isolation_regress) }g;
	is_deeply(\@programs, [ ('script/installcheck ') x 2 ], 'pg_regress, and pg_isolation_regress');
};

my $sandbox = sandbox();
my $node = cluster('sandbox', $sandbox);

subtest 'a server with a sandbox is taken' => sub {
	my $result = installcheck($node, 'sh', '-c', 'echo "$TEGRO_SANDBOX_URL $TEGRO_SHOP_ID"; exit 7');

	is($result->{err}, '', 'nothing is said');
	is($result->{out}, $sandbox->url . ' ' . SHOP_ID . "\n", 'the tests learn where the sandbox is');
	is($result->{status}, 7, 'their status is its own');
};

subtest 'the server that the command will use is asked' => sub {
	my $plain = PostgreSQL::Test::Cluster->new('other');
	my ($host, $port) = ($plain->host, $plain->port);

	$plain->init;
	$plain->start;
	foreach my $options ([ "--host=$host", "--port=$port" ], [ '--host', $host, '--port', $port ])
	{
		my $result = installcheck($node, 'echo', @$options, 'a test runs');

		is($result->{status}, 1, "@$options: it fails");
		is($result->{out}, '', 'no test runs');
		like($result->{err}, qr/^installcheck: the server does not preload tegro$/m, 'it asked that server');
	}
	my $result = installcheck($node, 'echo', "--hos=$host", 'a test runs');
	is($result->{out}, '', 'an option that is shortened: no test runs');
	like($result->{err}, qr/^installcheck: write --hos=.* in full/m, 'it says why');

	$result = installcheck($plain, 'sh', '-c', 'echo "$TEGRO_SANDBOX_URL"', 'sh', '--host=' . $node->host, '--port=' . $node->port);
	is($result->{out}, $sandbox->url . "\n", 'by its options, a command can use one with a sandbox');
	{
		my ($out, $err) = ('', '');

		local %ENV = (%ENV, PGHOST => '/nowhere', PGDATABASE => $node->connstr('postgres'));
		IPC::Run::run([ "$root/script/installcheck", 'echo', 'a test runs' ], '<', \undef, '>', \$out, '2>', \$err);
		is($out, '', 'a database name that names a server: no test runs');
		like($err, qr/^installcheck: PGDATABASE is not a name: /m, 'it says why');
	}
	$plain->stop;
};

subtest 'a server that has another shop' => sub {
	set_server($node, { 'tegro.shop_id' => 'another' });
	is_refused($node, qr/tegro\.shop_id is not the tests' shop, @{[SHOP_ID]}/);
	set_server($node, { 'tegro.shop_id' => undef });
};

subtest 'a server whose sandbox has gone' => sub {
	my $url = $sandbox->url;

	$sandbox->stop;
	is_refused($node, qr/no sandbox answers at \Q$url\E/);
};

subtest 'no server' => sub {
	$node->stop;
	is_refused($node, qr/there is no server to be reached/);
};

subtest 'a server that does not preload the library' => sub {
	my $plain = PostgreSQL::Test::Cluster->new('plain');

	$plain->init;
	$plain->start;
	is_refused($plain, qr/the server does not preload tegro/);
	$plain->stop;
};

subtest 'a server that would ask the provider' => sub {
	my $real = cluster('real', undef);

	is(query($real, 'SHOW tegro.api_url')->{out}, 'https://tegro.money/api', 'it is the default');
	is_refused($real, qr{tegro\.api_url is https://tegro\.money/api});
	set_server($real, { 'tegro.api_url' => 'https://127.0.0.1.example.com/api' });
	is_refused($real, qr{tegro\.api_url is https://127\.0\.0\.1\.example\.com/api});
	$real->stop;
};

done_testing();
