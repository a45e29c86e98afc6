# Other people's clients (t/clients) against a sandbox with its defaults.
use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::Bin/lib";
use SandboxTest;
use JSON::PP;
use Test::More;

binmode Test::More->builder->$_, ':utf8' for qw(output failure_output todo_output);
my $json = JSON::PP->new->utf8->canonical;
my $clients = "$ROOT/t/clients";
my @shop = ($SHOP, $API_KEY, $SECRET_KEY);
my @children;

# Debian's Python, for it has Debian's packages.
my $python = '/usr/bin/python3';

sub need
{
	my ($what, @command) = @_;
	my ($status) = run_command(@command);
	BAIL_OUT("$what is missing: script/packages --test installs it") if $status != 0;
}
need('python3-requests', $python, '-c', 'import requests');
need('python3-aiohttp', $python, '-c', 'import aiohttp');
need('php-curl', 'php', '-r', 'exit(function_exists("curl_init") ? 0 : 1);');
need('nodejs, 18 or later', 'node', '-e', 'process.exit(typeof fetch === "function" ? 0 : 1)');

# a proxy of the environment is none of theirs
delete @ENV{qw(http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY)};

my %run = (
	'requests_client.py' => [ $python, "$clients/requests_client.py" ],
	'aiohttp_bot.py' => [ $python, "$clients/aiohttp_bot.py" ],
	'curl_client.php' => [ 'php', "$clients/curl_client.php" ],
	'fetch_client.mjs' => [ 'node', "$clients/fetch_client.mjs" ],
	'curl_client.sh' => [ 'sh', "$clients/curl_client.sh" ]);
my %agents = (
	'requests_client.py' => qr{^python-requests/},
	'aiohttp_bot.py' => qr{^Python/\S+ aiohttp/},
	'fetch_client.mjs' => qr{^tegro-client/},
	'curl_client.sh' => qr{^curl/});

for my $client (sort keys %run)
{
	subtest $client => sub {
		my $s = start_sandbox('http');
		my ($status, $printed) = run_command('timeout', 60, @{ $run{$client} }, base($s), @shop);
		is($status, 0, 'it runs') or diag($printed);
		my $result = eval { $json->decode($printed) };
		my $ascii = $client eq 'curl_client.sh';
		is_deeply($result,
			{   balance => '1000000.00',
				order => $ascii ? 'Order 1' : 'Заказ №1',
				payout => $ascii ? 'Payout 1' : 'Выплата 1',
				same => JSON::PP::true,
				same_payout => JSON::PP::true,
				left => '999990.00',
				link => 200
			},
			'its story') or diag($printed);
		my @lines = journal($s);
		is(scalar(grep { $_->{verdict} eq 'success' } @lines), 6, 'six calls');
		$agents{$client} ? like($lines[0]{user_agent}, $agents{$client}, 'its User-Agent')
			: is($lines[0]{user_agent}, undef, 'no User-Agent');
		is(control($s, 'GET', 'state')->{data}{counts}{orders}, 2, 'an order, and one by the link');
		stop_sandbox($s);
	};
}

subtest 'clients that are refused, by the documentation or a report' => sub {
	my $s = start_sandbox('http');
	my ($status, $printed) = run_command('timeout', 60, @{ $run{'requests_client.py'} }, base($s), @shop, '--hasty');
	like($printed, qr/^balance: Wrong nonce$/, 'seconds as nonces, two calls in one');
	($status, $printed) = run_command('timeout', 60, @{ $run{'fetch_client.mjs'} }, base($s), @shop, '--default-agent');
	like($printed, qr/^balance: HTTP 403 error 1010$/, 'Node\'s default User-Agent');
	stop_sandbox($s);
};

sub free_port
{
	my $probe = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die "listen: $@";
	return $probe->sockport;
}

# Starts a webhook and waits until it listens.
sub serve
{
	my ($port, @command) = @_;
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open STDERR, '>', "$DIR/webhook.log";
		open STDOUT, '>&', \*STDERR;
		exec @command;
		exit 127;
	}
	push @children, $pid;
	wait_until(sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) })
		or BAIL_OUT("@command does not listen: " . slurp("$DIR/webhook.log"));
	return;
}

END
{
	my $status = $?;
	kill 'TERM', @children;
	waitpid $_, 0 for @children;
	$? = $status;
}

# Pays an order in each way; a webhook must take those that it can read.
sub try_webhook
{
	my ($port, $file, @ways) = @_;
	my $s = start_sandbox('http', '--notify-retries', 0);
	answer_of($s, 'createOrder', { currency => 'RUB', amount => '64.18', order_id => 'Заказ & №1' });
	for (@ways)
	{
		my ($name, $accepted, %way) = @$_;
		unlink $file;
		my $paid = control($s, 'POST', 'pay',
			{ order_id => 755555, notify_url => "http://127.0.0.1:$port/", %way })->{data};
		is($paid->{notified} ? 1 : 0, $accepted, "$name: " . ($accepted ? 'accepted' : 'not read'));
		next unless $accepted;
		my $got = $json->decode(slurp($file));
		ok($got->{good}, '... the signature is right');
		is($got->{fields}{order_id}, 'Заказ & №1', '... the number of the order');
		is($got->{fields}{amount}, '64.18', '... the amount');
	}
	stop_sandbox($s);
	return;
}

subtest 'a webhook in PHP' => sub {
	my $port = free_port();
	$ENV{WEBHOOK_FILE} = "$DIR/php.notified";
	$ENV{WEBHOOK_SECRET} = $SECRET_KEY;
	serve($port, 'php', '-S', "127.0.0.1:$port", "$clients/webhook.php");
	try_webhook($port, $ENV{WEBHOOK_FILE}, [ 'by default', 1 ], [ 'multipart', 1, as => 'multipart' ],
		[ 'the documented fields only', 1, fields => [] ], [ 'an upper-case sign', 1, upper_case => JSON::PP::true ]);
};

subtest 'a webhook in Python, multipart only' => sub {
	my $port = free_port();
	serve($port, $python, "$clients/aiohttp_bot.py", '--webhook', $port, "$DIR/bot.notified", $SECRET_KEY);
	try_webhook($port, "$DIR/bot.notified", [ 'multipart', 1, as => 'multipart' ], [ 'urlencoded', 0, as => 'urlencoded' ],
		[ 'without payment_system', 1, as => 'multipart', fields => [] ]);
};

done_testing();
