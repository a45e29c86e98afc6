# The command line, the journal, state, reset, payments and notifications.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use SandboxTest;
use Digest::SHA qw(hmac_sha256_hex);
use IO::Socket::INET;
use JSON::PP;
use POSIX qw(WNOHANG);
use Test::More;
use Time::HiRes qw(time);

my $json = JSON::PP->new->utf8->canonical;

# The command line.
for (
	[ ['--help'], 0, qr/^tegro-sandbox is a stand-in .*--shop ID:API_KEY:SECRET_KEY/s ],
	[ ['--version'], 0, qr/^tegro-sandbox \d+\.\d+/ ],
	[ [ '--listen', '0.0.0.0' ], 1, qr/--listen must be a loopback address/ ],
	[ [ '--listen', '8.8.8.8' ], 1, qr/--listen must be a loopback address/ ],
	[ [ '--listen', '::' ], 1, qr/--listen must be a loopback address/ ],
	[ [ '--listen', 'example.org' ], 1, qr/--listen must be a loopback address/ ],
	[ [ '--port', '65536' ], 2, qr/--port must be an integer from 0 to 65535/ ],
	[ [ '--port', 'x' ], 2, qr/--port must be an integer/ ],
	[ [ '--shop', 'a:b' ], 2, qr/--shop must be ID:API_KEY:SECRET_KEY/ ],
	[ [ '--shop', 'a:b:c:d' ], 2, qr/--shop must be/ ],
	[ [ '--shop', ':b:c' ], 2, qr/--shop must be/ ],
	[ [ '--shop', 'a:b:c', '--shop', 'a:d:e' ], 2, qr/there twice/ ],
	[ [ '--nonce', 'x' ], 2, qr/--nonce must be differ, unique, rising or any/ ],
	[ [ '--tls-cert', 'x' ], 2, qr/--tls-cert and --tls-key go together/ ],
	[ [ '--tls-cert', '/none', '--tls-key', '/none' ], 2, qr/could not open "\/none"/ ],
	[ [ '--tls-cert', '/etc/hostname', '--tls-key', '/etc/hostname' ], 1, qr/tegro-sandbox: ./ ],
	[ [ '--journal', '/none/x' ], 1, qr/could not open the journal "\/none\/x"/ ],
	[ [ '--ready-file', '/none/x' ], 1, qr/could not create "\/none\/x/ ],
	[ [ '--page-size', '0' ], 2, qr/--page-size must be/ ],
	[ ['--nothing'], 2, qr/--help lists the options/ ],
	[ ['x'], 2, qr/"x" is no option/ ])
{
	my ($status, $printed) = run_command('timeout', '20', $SANDBOX, @{ $_->[0] });
	is($status, $_->[1], "status of @{$_->[0]}");
	like($printed, $_->[2], '… says what is wrong');
}

# The help names each option of the documentation, and the other way round.
my ($status, $help) = run_command($SANDBOX, '--help');
my ($table) = slurp("$ROOT/docs/sandbox.md") =~ /^## Options\n(.*?)^## /ms;
is_deeply([ sort keys %{ { map { $_ => 1 } $table =~ /`(--[a-z-]+)/g } } ],
	[ sort keys %{ { map { $_ => 1 } $help =~ /^  (--[a-z-]+)/mg } } ],
	'documented and helped with: the same options');
my ($guesses) = slurp("$ROOT/docs/sandbox.md") =~ /^## Guesses\n(.*?)^## /ms;
my ($listed) = $help =~ /clients: programs[^\n]*\n(.*)/s;
is_deeply(
	[ map { s/`//gr } grep { !/^\| (?:behaviour|default) / } $guesses =~ /^(\| [^\n]*)\n/mg ],
	[   map { my ($behaviour, $option, $choice, $source) = @$_; "| $behaviour | $choice | " . ($option // '') . " | $source |" }
		map { [ /^  (.*?)(?:: (--[a-z-]+))?\n      (.*) \((.*)\)$/ ] } $listed =~ /(^  \S.*?\n      .*?)\n/mg ],
	'documented and helped with: the same guesses');
my ($documented) = slurp("$ROOT/docs/sandbox.md") =~ /^### Faults\n(.*?)^### /ms;
my $s = start_sandbox('http');
my ($actions) = control($s, 'POST', 'fault', { method => '*', action => 'x' })->{desc}
	=~ /valid actions: (.*)/;
is_deeply([ sort $documented =~ /^\| `(\w+)` \|/mg ], [ sort split /, /, $actions ],
	'documented: the same actions');

# A taken port.
my ($port) = base($s) =~ /:(\d+)$/;
my ($taken_status, $taken) = run_command('timeout', '20', $SANDBOX, '--port', $port);
is($taken_status, 1, 'a port that is taken');
like($taken, qr/^tegro-sandbox: .*in use/i, '… says so');

# Help at the root of the controls; other paths and verbs.
my $result = curl(base($s) . '/_sandbox/');
is($result->{status}, 200, 'GET /_sandbox/');
like($result->{body}, qr{^\w+ +/_sandbox/$_ }m, "… tells of $_")
	for qw(fault pay settle state flush reset);
is(control($s, 'GET', 'nothing')->{http_status}, 404, 'an unknown endpoint');
for ([ PUT => 'fault' ], [ POST => 'state' ], [ GET => 'pay' ], [ GET => 'settle' ], [ GET => 'flush' ], [ GET => 'reset' ])
{
	is(control($s, @$_)->{http_status}, 405, "@$_");
}

# The journal.
forget_journal($s);
call($s, 'createOrder', { currency => 'RUB', amount => 1, order_id => "\x{e9}" });
call($s, 'createOrder', { currency => 'RUB' });
curl(signed("\xff\n"), base($s) . '/api/balance/');
curl(base($s) . '/api/balance/', '-A', '', '-d', '{"nonce":7}');
curl(base($s) . '/other', '-A', "x\xff");
my @lines = journal($s);
is(scalar @lines, 5, 'five lines; none of control requests');
is( join(' ', sort keys %{ $lines[0] }),
	'authorization body connection desc executed fault http_status method nonce request time user_agent verdict',
	'the fields');
my $body = delete $lines[0]{body};
utf8::encode($body);
is(delete $lines[0]{authorization}, 'Bearer ' . hmac_sha256_hex($body, $API_KEY),
	'the body is there to the byte, and its signature');
cmp_ok(abs(time - delete $lines[0]{time}), '<', 10, 'the time');
is(delete $lines[0]{nonce}, $json->decode($body)->{nonce}, 'the nonce');
is(delete $lines[0]{request}, 1, 'the request');
cmp_ok($lines[1]{connection}, '>', delete $lines[0]{connection}, 'the connection');
is_deeply($lines[0],
	{ method => 'createOrder', user_agent => 'my-shop/1.0', verdict => 'success', desc => '',
		executed => JSON::PP::true, fault => undef, http_status => 200 }, 'the rest');
is($lines[1]{verdict}, 'error', 'an error');
is($lines[1]{desc}, 'Empty required param amount', '… why');
ok(!$lines[1]{executed}, '… not executed');
is($lines[2]{body_base64}, '/wo=', 'a body that is not UTF-8');
ok(!exists $lines[2]{body}, '… instead');
is($lines[3]{user_agent}, undef, 'no User-Agent');
is($lines[3]{http_status}, 200, '… 200');
is($lines[3]{nonce}, 7, '… its nonce');
is($lines[4]{method}, '/other', 'a path that names no method');
is($lines[4]{user_agent}, "x\x{ff}", 'any bytes in a header');
cmp_ok($lines[$_]{time}, '>=', $lines[$_ - 1]{time}, 'times rise') for 2 .. 4;

# Lines come by themselves, and at the end.
my $size = -s $s->{journal};
call($s, 'balance');
ok(wait_until(sub { -s $s->{journal} > $size }), 'a line comes by itself');
$size = -s $s->{journal};
call($s, 'balance') for 1 .. 3;
my $file = $s->{journal};
is(stop_sandbox($s, 'INT'), 0, 'SIGINT ends it');
my @rest = split /\n/, substr slurp($file), $size;
is(scalar @rest, 3, 'the journal is complete');

# It is appended to.
spew("$DIR/kept", "{}\n");
$s = start_sandbox('http', '--journal', "$DIR/kept");
call($s, 'balance');
stop_sandbox($s);
like(slurp("$DIR/kept"), qr/^\{\}\n\{"time":.*\}\n$/, 'the journal is appended to');

# A journal that can't be written ends it.
if (-c '/dev/full')
{
	$s = start_sandbox('http', '--journal', '/dev/full');
	call($s, 'balance');
	wait_until(sub { waitpid($s->{pid}, WNOHANG) > 0 });
	is($? >> 8, 1, 'a full disk ends it');
}

# Rules and shops.
$s = start_sandbox('http', '--nonce', 'rising', '--deduplicate', '--user-agents', 'any',
	'--shop', 'first:key1:secret1', '--shop', 'second:key2:secret2', '--listen', '::1');
like(base($s), qr{^http://\[::1\]:\d+$}, 'IPv6');

sub of_shop
{
	my ($shop, $key, $nonce, $method, %params) = @_;
	my $text = $json->encode({ shop_id => $shop, nonce => $nonce, %params });
	return $json->decode(curl(signed($text, $key), '-A', 'curl/8', base($s) . "/api/$method/")
			->{body});
}
is(of_shop('first', 'key1', 5, 'balance')->{type}, 'success', 'nonce 5');
is(of_shop('first', 'key1', 5, 'balance')->{desc}, 'Wrong nonce', 'again');
is(of_shop('first', 'key1', 4, 'balance')->{desc}, 'Wrong nonce', 'a lower one');
is(of_shop('second', 'key2', 4, 'balance')->{type}, 'success', 'another shop has its own');
is(of_shop('second', 'key1', 6, 'balance')->{desc}, 'Wrong authorization token', '… key, too');
my %payout = (currency => 'USD', amount => 1, account => 'a', payment_id => 'p', payment_system => 5);
is(of_shop('first', 'key1', 6, 'createWithdrawal', %payout)->{type}, 'success', 'a payout');
is(of_shop('first', 'key1', 7, 'createWithdrawal', %payout)->{desc}, 'Duplicate payment_id', 'twice');
is(of_shop('second', 'key2', 7, 'createWithdrawal', %payout)->{type}, 'success', 'of another shop');
is(of_shop('second', 'key2', 8, 'withdrawal', order_id => 10001)->{desc}, 'Withdrawal not found',
	'a shop sees its own only');
is(of_shop('first', 'key1', 8, 'shops')->{data}{shops}[1]{public_key}, 'second', 'shops lists both');
is(control($s, 'GET', 'state?shop_id=second')->{data}{shop_id}, 'second', 'the state of a shop');
is(control($s, 'GET', 'state')->{data}{shop_id}, 'first', '… of the first by default');
is(control($s, 'GET', 'state?shop_id=x')->{http_status}, 400, '… of none');
stop_sandbox($s);

$s = start_sandbox('http', '--nonce', 'any', '--latency', '500', '--threads', '1', '--shop',
	"$SHOP:$API_KEY:x");
is(answer_of($s, 'balance', { nonce => 1 })->{type}, 'success', '--nonce any') for 'once', 'twice';
$result = call($s, 'balance');
cmp_ok($result->{seconds}, '>=', 0.5, '--latency');
# a slow machine may take as long by itself, but not always
ok((grep { curl(base($s) . '/_sandbox/')->{seconds} < 0.5 } 1 .. 10), '… not of control requests');
my $together = 0;
for (1 .. 3)
{
	my $begun = time;
	my @pids = map { my $pid = fork; if (!$pid) { exec 'curl', '-s', '-o', '/dev/null', '-A', 'x', '-d', '{}',
		base($s) . '/api/balance/'; } $pid } 1 .. 20;
	waitpid $_, 0 for @pids;
	# one after the other they take ten seconds and more
	last if $together = time - $begun < 10;
}
ok($together, '… twenty wait together, on one thread');
stop_sandbox($s);

# State.
my ($url, $received) = receiver(200);
$s = start_sandbox('http', '--notify-url', $url);
my %order = (currency => 'RUB', amount => 100, order_id => 'Order #1 & ä', payment_system => 16);
answer_of($s, 'createOrder', \%order);
answer_of($s, 'createWithdrawal', { %payout, payment_id => $_ }) for 'a', 'b', 'a';
my $state = control($s, 'GET', 'state');
is($state->{http_status}, 200, 'state');
is_deeply($state->{data}{counts},
	{ orders => 1, withdrawals => 3, repeated_orders => 0, repeated_withdrawals => 1, waiting => 0 },
	'… counts');
is_deeply([ map { "$_->{payment_id}$_->{executions}" } @{ $state->{data}{withdrawals} } ],
	[qw(a2 b1 a2)], '… executions');
is($state->{data}{orders}[0]{executions}, 1, '… of orders');
is($state->{data}{balances}{USD}, '997.00', '… balances');
ok(!exists control($s, 'GET', 'state?summary=1')->{data}{orders}, '… a summary');

# Payments.
my $paid = control($s, 'POST', 'pay', { order_id => 755555 });
is($paid->{data}{order}{status}, 1, 'pay');
like($paid->{data}{order}{date_payed}, qr/^\d{4}-/, '… dated');
ok($paid->{data}{notified}, '… notified');
is($paid->{data}{notification_status}, 200, '… status');
is(answer_of($s, 'order', { order_id => 755555 })->{data}{status}, 1, '… the API knows');
is(answer_of($s, 'balance')->{data}{balance}{RUB}, '1000100.00', '… credited');
my $oracle = '$fields = []; parse_str($argv[1], $fields); $sign = $fields["sign"]; '
	. 'unset($fields["sign"]); ksort($fields); $query = http_build_query($fields); '
	. 'echo json_encode([$query . "&sign=" . $sign === $argv[1], '
	. 'md5($query . $argv[2]) === $sign, $fields]);';
my ($as_php, $right, $fields) =
	@{ $json->decode(php($oracle, slurp($received) =~ s/\n$//r, $SECRET_KEY)) };
ok($as_php, '… written and sorted as PHP does');
ok($right, '… signed');
is_deeply($fields,
	{ amount => '100.00', currency => 'RUB', order_id => 'Order #1 & ä', payment_id => '755555',
		payment_system => '16', shop_id => $SHOP, status => '1' }, '… the fields')
	or diag(slurp($received));
control($s, 'POST', 'pay', { payment_id => 'Order #1 & ä', repeat => 5 });
is(scalar(() = slurp($received) =~ /\n/g), 6, '… repeated');
is(answer_of($s, 'balance')->{data}{balance}{RUB}, '1000100.00', '… credited once');
spew($received, '');
control($s, 'POST', 'pay', { order_id => 755555, tamper => JSON::PP::true });
($as_php, $right, $fields) =
	@{ $json->decode(php($oracle, slurp($received) =~ s/\n$//r, $SECRET_KEY)) };
ok(!$right, '… tampered');
is($fields->{amount}, '101.00', '… in the amount');

# The page that a payment link opens; PHP makes the links.
my $link = '$signed = json_decode($argv[1], true); ksort($signed); $query = http_build_query($signed); '
	. 'echo $query . "&" . http_build_query(json_decode($argv[2], true) + ["sign" => md5($query . $argv[3])]);';
my %link = (shop_id => $SHOP, amount => '12.50', currency => 'RUB', order_id => 'Link ~1 & ä', test => 1);
my $query = php($link, $json->encode(\%link), $json->encode({ lang => 'ru', notify_url => $url,
	fields => { email => 'user@site.ru' } }), $SECRET_KEY);
my $opened = curl(base($s) . "/pay/?$query");
is($opened->{status}, 200, 'a payment link opens');
my ($opened_as) = $opened->{body} =~ m{<b id="order">(\d+)</b>};
my $made = answer_of($s, 'order', { order_id => $opened_as + 0 })->{data};
is_deeply([ @$made{qw(payment_id amount currency_id email test_order status)} ],
	[ 'Link ~1 & ä', '12.50000000', 1, 'user@site.ru', 1, 0 ], '… and its order is there');
like(curl(base($s) . "/pay/?$query")->{body}, qr/<b id="order">@{[ $opened_as + 1 ]}</, '… once more: another');
spew($received, '');
control($s, 'POST', 'pay', { order_id => $opened_as + 0 });
like(slurp($received), qr/amount=12\.50&/, '… paid, its address is notified');
for (
	[ 'another amount', 403, $query =~ s/12\.50/1.00/r ],
	[ 'another key', 403, php($link, $json->encode(\%link), '{}', 'x') ],
	[ 'no test', 403, $query =~ s/&test=1//r ],
	[ 'two amounts', 403, "$query&amount=1" ],
	[ 'no signature', 403, $query =~ s/&sign=.*//r ],
	[ 'a signature in capitals', 403, $query =~ s/(?<=sign=)(.*)/\U$1/r ],
	[ 'another shop', 404, $query =~ s/$SHOP/X/r ],
	[ 'nothing', 404, '' ],
	[ 'an amount that is none', 400, php($link, $json->encode({ %link, amount => 'X' }), '{}', $SECRET_KEY) ])
{
	is(curl(base($s) . "/pay/?$_->[2]")->{status}, $_->[1], "… $_->[0]");
}
is(curl('-d', 'x', base($s) . "/pay/?$query")->{status}, 405, '… by POST');
is(control($s, 'GET', 'state?summary=1')->{data}{counts}{orders}, 3, '… none of which made an order');

# A test order; an address of its own.
my ($own_url, $own) = receiver(403);
spew($received, '');
answer_of($s, 'createOrder', { %order, order_id => 't', test => 1, notify_url => $own_url,
	amount => '0.125' });
$paid = control($s, 'POST', 'pay', { payment_id => 't', shop_id => $SHOP });
like(slurp($own), qr/^amount=0\.125&.*&test=1&sign=[0-9a-f]{32}\n$/, 'a test order');
is(slurp($received), '', '… at its own address');
ok(!$paid->{data}{notified}, '… refused');
is($paid->{data}{notification_status}, 403, '… with 403');
is($paid->{data}{order}{test_order}, 1, '… a test');
is(answer_of($s, 'balance')->{data}{balance}{RUB}, '1000100.00', '… credited nothing');
control($s, 'POST', 'pay', { payment_id => 't', notify_url => $url });
like(slurp($received), qr/test=1/, '… at the call\'s address');
$paid = control($s, 'POST', 'pay', { payment_id => 't', notify_url => 'http://127.0.0.1:1/' });
ok(!$paid->{data}{notified}, 'nobody listens');
is($paid->{data}{notification_status}, undef, '… no status');
like($paid->{data}{notification_error}, qr/./, '… why');
$paid = control($s, 'POST', 'pay', { payment_id => 't', notify_url => 'file:///etc/passwd' });
like($paid->{data}{notification_error}, qr/protocol/i, 'no files');

# A receiver that hangs holds up nothing else.
my $hold = spew("$DIR/hold", '');
my ($slow_url, $slow_received) = receiver(200, $hold);
my $pid = fork;
if (!$pid)
{
	exec 'curl', '-s', '-o', "$DIR/slow", base($s) . '/_sandbox/pay', '-d',
		$json->encode({ payment_id => 't', notify_url => $slow_url });
}
ok(wait_until(sub { -s $slow_received }), 'a slow receiver is notified');
answer_of($s, 'balance');
ok(control($s, 'POST', 'pay', { order_id => 755555 })->{data}{notified}, 'another is notified');
ok(!-s "$DIR/slow", '… meanwhile');
unlink $hold;
waitpid $pid, 0;
like(slurp("$DIR/slow"), qr/"notified":true/, '… and the slow one, too');

for (
	[ {}, qr/^exactly one of/ ], [ { order_id => 1, payment_id => 'x' }, qr/^exactly one of/ ],
	[ { order_id => 'x' }, qr/^"order_id" must be an integer/ ],
	[ { order_id => 1 }, qr/^order not found/ ], [ { payment_id => 'none' }, qr/^order not found/ ],
	[ { payment_id => 't', shop_id => 'x' }, qr/^unknown shop_id/ ],
	[ { payment_id => 't', repeat => 0 }, qr/^"repeat" must be/ ],
	[ { payment_id => 't', tamper => 1 }, qr/^"tamper" must be/ ],
	[ { payment_id => 't', x => 1 }, qr/^unknown field "x"; valid fields: order_id, / ])
{
	my $answer = control($s, 'POST', 'pay', $_->[0]);
	is($answer->{http_status}, 400, 'a mistake');
	like($answer->{desc}, $_->[1], "… $answer->{desc}");
}

# Reset.
my $nonce = next_nonce();
answer_of($s, 'balance', { nonce => $nonce });
control($s, 'POST', 'fault', { method => '*', action => 'reset' });
forget_journal($s);
$size = -s $s->{journal};
is(control($s, 'POST', 'reset')->{type}, 'success', 'reset');
$state = control($s, 'GET', 'state')->{data};
is_deeply($state,
	{ shop_id => $SHOP, orders => [], withdrawals => [],
		counts => { orders => 0, withdrawals => 0, repeated_orders => 0,
			repeated_withdrawals => 0, waiting => 0 },
		balances => { RUB => '1000000.00', USD => '1000.00', EUR => '1000.00', UAH => '0.00' }
	}, '… all is as at the start');
is_deeply(control($s, 'GET', 'fault')->{data}, [], '… no faults');
is(answer_of($s, 'balance', { nonce => $nonce })->{type}, 'success', '… no nonces');
cmp_ok(-s $s->{journal}, '>=', $size, '… the journal stays');
is(answer_of($s, 'createOrder', \%order)->{data}{id}, 755555, '… numbers start again');

# Many: the state is streamed, pages are quick.
my ($base) = base($s);
my $many = 3000;
my $config = '';
for (1 .. $many)
{
	my $text = $json->encode({ shop_id => $SHOP, nonce => next_nonce(), currency => 'RUB', amount => 1,
		order_id => "many $_" });
	spew("$DIR/many.$_", $text);
	$config .= "next\n" if $_ > 1;
	$config .= "url = \"$base/api/createOrder/\"\nuser-agent = \"my-shop/1.0\"\noutput = \"/dev/null\"\n"
		. "data-binary = \"\@$DIR/many.$_\"\nheader = \"Authorization: Bearer "
		. hmac_sha256_hex($text, $API_KEY) . "\"\n";
}
spew("$DIR/many", $config);
run_command('curl', '-s', '-K', "$DIR/many");
$state = control($s, 'GET', 'state')->{data};
is(scalar @{ $state->{orders} }, $many + 1, 'the state of thousands');
is($state->{orders}[-1]{payment_id}, "many $many", '… in order');
is(answer_of($s, 'orders', { page => 31 })->{data}[0]{payment_id}, 'Order #1 & ä', '… the last page');
my @requests = grep { $_->{method} eq 'createOrder' } journal($s);
is($requests[-1]{request}, $many, 'all on one connection');
stop_sandbox($s);

# It ends with its parent.
my $ready = "$DIR/orphan";
$pid = fork;
if (!$pid)
{
	if (!fork)
	{
		open STDOUT, '>', '/dev/null';
		exec $SANDBOX, '--parent-death', '--ready-file', $ready;
	}
	wait_until(sub { -e $ready });
	POSIX::_exit(0);
}
waitpid $pid, 0;
my ($orphan) = slurp($ready) =~ /:(\d+)$/;
ok(wait_until(sub { !IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $orphan) }),
	'it ends with its parent');

done_testing();
