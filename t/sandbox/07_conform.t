# script/conform: against the sandbox everything agrees, where the sandbox is
# told otherwise the line says so, and what it saves tells no account.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use SandboxTest;
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use Test::More;

my $conform = "$ROOT/script/conform";
my @providers;

# Runs script/conform; returns its status, its table as assumption => word, and
# all that it printed.
sub conform
{
	my (@arguments) = @_;
	my ($status, $printed) =
		run_command('timeout', '120', $conform, @arguments);
	my %table =
		map { /^(yes|no|-) +(\S.*?)  / ? ($2 => $1) : () } split /\n/, $printed;
	return ($status, \%table, $printed);
}

# The assumptions that do not agree.
sub differing
{
	my ($table) = @_;
	return [ sort grep { $table->{$_} ne 'yes' } keys %$table ];
}

subtest 'the default sandbox is as tegro assumes' => sub {
	my ($status, $table, $printed) = conform('--sandbox', '--save', "$DIR/saved");

	is($status, 0, 'status') or diag($printed);
	is_deeply(differing($table), [], 'nothing differs');
	cmp_ok(scalar keys %$table, '>=', 40, 'assumptions');
	my $n = keys %$table;
	like($printed, qr/^$n agree, 0 differ, 0 not seen$/m, 'the last line');

	my $saved = slurp("$DIR/saved");
	my $report = JSON::PP->new->utf8->decode($saved);
	is(scalar @{ $report->{assumptions} }, $n, 'all assumptions are saved');
	cmp_ok(scalar @{ $report->{exchanges} }, '>=', 30, 'so are the exchanges');
	my %methods = map { $_->{method} => 1 } @{ $report->{exchanges} };
	is_deeply(
		[ sort keys %methods ],
		[qw(balance modules order orders rates shops withdrawal withdrawals)],
		'only methods that change nothing');
	for my $told ($SHOP, $API_KEY, 'DEMO', '1000000.00', '4242', '1001', '2003',
		'755555', 'Bearer')
	{
		unlike($saved, qr/\Q$told\E/i, "\"$told\" is not in it");
	}
	my ($orders) = grep { $_->{method} eq 'orders' } @{ $report->{exchanges} };
	is($orders->{answer}{data}[0]{amount}, '00.00000000', 'a shape remains');
	is($orders->{answer}{data}[2]{status}, 1, 'and a status');
};

subtest 'what differs is told' => sub {
	my ($status, $table, $printed) = conform('--sandbox', '--nonce', 'any');

	is($status, 1, 'status');
	is_deeply(differing($table),
		[
			'a nonce must differ from the one before it',
			'a refused nonce has a text that tegro.retryable_pattern knows'
		],
		'these two');
	like($printed, qr/^- .*retryable.*HTTP 200, success$/m, 'nothing was refused');
};

subtest 'it asks for what it needs' => sub {
	my $file = spew("$DIR/key", "$API_KEY\n");

	is((conform())[0], 2, 'no shop');
	is((conform('--sandbox', '--shop', $SHOP))[0], 2, 'sandbox and shop');
	is((conform('--shop', $SHOP, 'orders'))[0], 2, 'an argument too many');
	like((conform('--shop', $SHOP))[2], qr/no API key/, 'no key');
	like(
		(conform('--shop', $SHOP, '--key-file', "$DIR/none"))[2],
		qr/No such file/, 'no key file');
	like(
		(conform('--shop', $SHOP, '--key-file', $file, '--url', 'http://127.0.0.1:1/api'))[2],
		qr/shops could not be asked: .*127\.0\.0\.1/, 'nobody listens');
};

subtest 'a provider elsewhere' => sub {
	my $sandbox = start_sandbox('http');
	my $log = "$DIR/curl.log";
	my $real = (grep { -x "$_/curl" } split /:/, $ENV{PATH})[0];

	# every command line that curl is given, and the key that is on none of them
	mkdir "$DIR/bin";
	spew("$DIR/bin/curl",
		"#!/bin/sh\nprintf '%s\\n' \"\$*\" >>$log\nexec $real/curl \"\$@\"\n");
	chmod 0755, "$DIR/bin/curl";
	local $ENV{PATH} = "$DIR/bin:$ENV{PATH}";
	local $ENV{no_proxy} = '*';
	local $ENV{TEGRO_API_KEY} = $API_KEY;
	my @of_it = ('--shop', $SHOP, '--url', "$sandbox->{base}/api/", '--pause', 0);
	my ($status, $table, $printed) = conform(@of_it);
	is($status, 0, 'a shop without orders does not differ') or diag($printed);
	is($table->{'orders: the newest row is first'}, '-', 'it shows less');
	unlike(slurp($log), qr/\Q$API_KEY\E|Bearer/, 'no key on a command line');
	is_deeply(
		[ grep { $_->{executed} } journal($sandbox) ],
		[], 'nothing was executed');

	local $ENV{TEGRO_API_KEY} = 'not-the-key';
	($status, $table, $printed) = conform(@of_it);
	is($status, 2, 'a wrong key is not a difference');
	like($printed, qr/does not accept the key: .*Wrong authorization token/,
		'but said');
	stop_sandbox($sandbox);
};

# Starts a provider of our own, which answers each request with what a function
# makes of the method, the body and the headers: content type and body, or
# nothing, for a connection that is closed.  Returns its URL.
sub provider
{
	my ($answer) = @_;
	my $listener =
		IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1')
		or die "listen: $@";
	my $port = $listener->sockport;
	my $pid = fork // die "fork: $!";

	if ($pid == 0)
	{
		while (my $client = $listener->accept)
		{
			my ($head, $body) = ('', '');
			while (my $line = <$client>)
			{
				last if $line eq "\r\n";
				$head .= $line;
			}
			my ($length) = $head =~ /^Content-Length: (\d+)/mi;
			read $client, $body, $length // 0;
			my ($method) = $head =~ m{^POST /api/(\w+)/};
			my ($type, $content) = $answer->($method, $body, $head);
			print $client "HTTP/1.1 200 OK\r\nConnection: close\r\n"
				. "Content-Type: $type\r\nContent-Length: "
				. length($content)
				. "\r\n\r\n$content"
				if defined $type;
			close $client;
		}
		POSIX::_exit(0);
	}
	push @providers, $pid;
	return "http://127.0.0.1:$port/api";
}

subtest 'odd answers are differences, and tell nothing' => sub {
	my %odd = (
		shops => '{"type":"success","data":{"shops":["Ivan Petrov"]}}',
		balance => '{"type":"success","data":"64.18"}',
		orders => '{"type":"success","data":["A12",{"id":[1],"status":123456789012345678901234567890,"amount":{}}]}',
		withdrawals => '[{"payment_id":"A12","amount":"64.18"}]',
		order => '{"type":"error","desc":"Order A12 of Ivan Petrov, 64.18 RUB, 203.0.113.7' . "\x1b[2J\\n" . 'yes  a line"}',
		withdrawal => "<br>Warning: /home/ivan\n" . '{"type":"success","data":{"amount":"64.18"}}',
		rates => '<html>Your IP: 203.0.113.7, Ivan</html>',
		modules => '{"type":"success","data":{"Ivan_Petrov":"64.18"}}');
	my %seen;
	my $url = provider(sub {
		my ($method, $body, $head) = @_;
		my ($nonce) = $body =~ /"nonce": ?([\d.]+)/;

		return if $head =~ /^User-Agent: node/mi;
		return ('text/html', '{"type":"error","desc":"Zzz qqq"}') if $nonce && $seen{$nonce}++;
		return ('text/html', $odd{$method});
	});
	local $ENV{TEGRO_API_KEY} = $API_KEY;
	local $ENV{no_proxy} = '*';
	my ($status, $table, $printed) =
		conform('--shop', $SHOP, '--url', $url, '--pause', 0, '--save', "$DIR/odd");

	is($status, 1, 'it goes on to its end') or diag($printed);
	unlike($printed, qr/ at \S+ line \d+|uninitialized/, 'without an error of Perl');
	is($table->{$_}, 'no', $_) foreach 'an answer has the type application/json',
		'a refused nonce has a text that tegro.retryable_pattern knows',
		'shops: a success has a list of shops, this one among them',
		'balance: amounts by currency, as strings',
		'orders: a success is a list of rows', 'withdrawals: a success is a list of rows',
		'rates: a success with data', 'the user agent "node" is refused with HTTP 403';
	unlike($printed, qr/\x1b|^yes  a line/m, 'nothing that a terminal obeys');
	my $saved = slurp("$DIR/odd");
	unlike($saved, qr/\Q$_\E/i, "\"$_\" is not saved") foreach '64.18', 'Ivan', 'Petrov', 'A12', '203.0', '123456789';
	is((conform('--sandbox', '--currencies', 'USD'))[0], 2, 'a sandbox that refuses what is asked about');
	is((conform('--sandbox', '--nonce', 'any', '--save', "$DIR/any"))[0], 1, '--save after an option of the sandbox');
	ok(-s "$DIR/any", '... is one of conform');
};

END
{
	my $status = $?;
	kill 'TERM', @providers;
	$? = $status;
}

done_testing();
