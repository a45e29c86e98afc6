# Every action of the fault queue, over http and https, as curl sees it; what
# the journal says of it; and whether it was executed.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use SandboxTest;
use MIME::Base64;
use Test::More;
use Time::HiRes qw(sleep time);

my %payout = (currency => 'RUB', amount => 1, account => '4242', payment_system => 5);
my $number = 0;

# What curl's exit codes mean.
my ($EMPTY, $CUT, $TIMEOUT, $RESET) = (52, 18, 28, 56);

sub fault
{
	my ($s, %fault) = @_;
	my $answer = control($s, 'POST', 'fault', { method => 'createWithdrawal', %fault });
	is($answer->{type}, 'success', "queued: $fault{action}")
		or diag($answer->{desc});
	return;
}

# Sends a payout that meets what is queued; returns curl's result and the lines
# of the journal.
sub meet
{
	my ($s, @options) = @_;
	my $result;
	forget_journal($s);
	$result = call($s, 'createWithdrawal', { %payout, payment_id => 'p' . ++$number },
		@options);
	return ($result, journal($s));
}

# Sends a payout that is not answered, and gives up once the journal says that
# the sandbox has it.  Returns the lines.
sub give_up
{
	my ($s) = @_;
	my ($pid, @lines);
	forget_journal($s);
	my $text = JSON::PP->new->canonical->encode({ %payout, shop_id => $SHOP, nonce => next_nonce(),
		payment_id => 'p' . ++$number });
	my @options = signed($text);
	$pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		exec 'curl', '-sk', '--noproxy', '*', '-o', '/dev/null', @options, base($s) . '/api/createWithdrawal/'
			or exit 127;
	}
	ok(wait_until(sub { push @lines, journal($s); grep { !$_->{deferred} } @lines }), '… it waits');
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return @lines;
}

sub waiting { return control($_[0], 'GET', 'state?summary=1')->{data}{counts}{waiting} }

# Has the last look at what is to be seen for so many milliseconds only: it is
# handed how long, and does all again with more if the machine was too slow.
sub in_time
{
	my ($ms, $scenario) = @_;
	for (1 .. 4)
	{
		my $begun = time;
		my $test = $scenario->($ms);
		return $test->() if time < $begun + $ms / 1000 || $_ == 4;
		$ms *= 3;
	}
	return;
}

# Says whether the last payout is there.
sub is_there
{
	my ($s) = @_;
	return answer_of($s, 'withdrawal', { payment_id => "p$number" })->{type} eq 'success'
		? 1 : 0;
}

# Waits until the last payout is there; the machine may be slow.
sub appears
{
	my ($s) = @_;
	return wait_until(sub { is_there($s) });
}

for my $scheme (@BOTH)
{
	my $s = start_sandbox($scheme);
	my ($result, @lines);

	for (
		[ close_before_read => 0, 0 ],
		[ close_after_read => 0, 1 ],
		[ execute_then_close => 1, 1 ],
		[ reset => 1, 1 ])
	{
		my ($action, $executed, $has_body) = @$_;
		fault($s, action => $action);
		($result, @lines) = meet($s);
		if ($action eq 'reset')
		{
			is($result->{exit}, $RESET, "$scheme $action: the connection is reset");
		}
		elsif ($action eq 'close_before_read')
		{
			ok($result->{exit} == $EMPTY || $result->{exit} == $RESET
					|| $result->{exit} == 55, "$scheme $action: no answer")
				or diag($result->{exit});
		}
		else
		{
			is($result->{exit}, $EMPTY, "$scheme $action: no answer");
		}
		is(is_there($s), $executed, '… executed, or not');
		is(scalar @lines, 1, '… one line');
		is($lines[0]{verdict}, 'fault', '… verdict');
		is($lines[0]{fault}, $action, '… fault');
		is($lines[0]{executed} ? 1 : 0, $executed, '… executed');
		is($lines[0]{http_status}, undef, '… no status');
		is(length $lines[0]{body} > 0 ? 1 : 0, $has_body, '… body');
		is($lines[0]{method}, 'createWithdrawal', '… method');
	}

	# Waits.
	fault($s, action => 'hold', ms => 400);
	($result, @lines) = meet($s);
	is($result->{status}, 200, "$scheme hold: answered");
	cmp_ok($result->{seconds}, '>=', 0.4, '… after so long');
	is(scalar @lines, 2, '… two lines');
	ok(!$lines[0]{executed} && !exists $lines[0]{deferred}, '… not executed at first');
	ok($lines[1]{executed} && $lines[1]{deferred}, '… then it is');
	is($lines[1]{verdict}, 'success', '… with success');
	cmp_ok($lines[1]{time} - $lines[0]{time}, '>=', 0.4, '… so much later');
	is($lines[1]{nonce}, $lines[0]{nonce}, '… the same request');

	in_time(2000, sub {
		fault($s, action => 'hold', ms => $_[0]);
		give_up($s);
		my ($waiting, $there) = (waiting($s), is_there($s));
		return sub {
			is($waiting, 1, "$scheme hold: one waits");
			is($there, 0, "$scheme hold: the client gives up, it is not executed");
		};
	});
	is(appears($s), 1, '… executed all the same');

	# The library may see that a client has gone before it goes on with what the
	# client has sent.
	my $first = $number + 1;
	for (1 .. 30)
	{
		fault($s, action => 'hold', ms => 300);
		give_up($s);
	}
	my $last = $number;
	ok(wait_until(sub { waiting($s) == 0 }), '… many of them: none waits for ever');
	is(join(' ', grep { answer_of($s, 'withdrawal', { payment_id => "p$_" })->{type} ne 'success' } $first .. $last),
		'', '… and each is executed');
	ok(wait_until(sub { waiting($s) == 0 }), '… none waits');

	in_time(2000, sub {
		fault($s, action => 'execute_then_hold', ms => $_[0]);
		@lines = give_up($s);
		my $there = is_there($s);
		return sub { is($there, 1, "$scheme execute_then_hold: the client gives up, it is executed at once") };
	});
	ok($lines[0]{executed}, '… says the journal');
	is(scalar @lines, 1, '… in one line');
	fault($s, action => 'execute_then_hold', ms => 200);
	($result) = meet($s);
	is($result->{status}, 200, '… answered to who waits');

	in_time(2000, sub {
		fault($s, action => 'execute_later', ms => $_[0]);
		($result, @lines) = meet($s);
		my $there = is_there($s);
		return sub { is($there, 0, "$scheme execute_later: not executed") };
	});
	is($result->{exit}, $EMPTY, '… no answer');
	is(scalar @lines, 1, '… one line');
	ok(!$lines[0]{executed}, '… which says so');
	is(appears($s), 1, '… executed later');
	(@lines) = grep { $_->{method} eq 'createWithdrawal' } journal($s);
	is(scalar @lines, 1, '… another line');
	ok($lines[0]{executed} && $lines[0]{deferred}, '… which says so');

	# A reset drops what waits.
	fault($s, action => 'execute_later', ms => 300);
	($result) = meet($s);
	control($s, 'POST', 'reset');
	sleep 0.5;
	is(control($s, 'GET', 'state')->{data}{counts}{withdrawals}, 0,
		"$scheme: a reset forgets what waits");

	# Broken bodies.
	fault($s, action => 'drip', ms => 10);
	($result, @lines) = meet($s);
	like($result->{body}, qr/"success".*\}$/, "$scheme drip: a whole answer");
	cmp_ok($result->{seconds}, '>=', 0.01 * length $result->{body}, '… slowly');
	ok($lines[0]{executed}, '… executed');
	fault($s, action => 'drip', ms => 500);
	($result) = meet($s, '-m', '2.75');
	is($result->{exit}, $TIMEOUT, '… the client gives up');
	cmp_ok(length $result->{body}, '<=', 6, '… after some bytes');

	fault($s, action => 'cut', bytes => 10);
	($result, @lines) = meet($s);
	is($result->{exit}, $CUT, "$scheme cut: curl notices");
	is($result->{body}, '{"type":"s', '… after ten bytes');
	ok($lines[0]{executed}, '… executed');
	is($lines[0]{http_status}, 200, '… status');
	fault($s, action => 'cut', bytes => 0);
	($result) = meet($s);
	is($result->{exit}, $CUT, '… after none');

	fault($s, action => 'length');
	($result, @lines) = meet($s, '-m', '2.5');
	is($result->{exit}, $TIMEOUT, "$scheme length: curl waits for more");
	my ($length) = $result->{headers} =~ /^Content-Length: (\d+)\r$/m;
	is($length, 10 + length $result->{body}, '… ten bytes too many announced');
	is(scalar(() = $result->{headers} =~ /^Content-Length/mg), 1, '… once');
	ok($lines[0]{executed}, '… executed');
	fault($s, action => 'length', length => 20);
	($result) = meet($s);
	is($result->{body}, '{"type":"success","d', '… too short: curl takes what it says');
	like($result->{headers}, qr/^Content-Length: 20\r$/m, '… as announced');
	fault($s, action => 'length', bytes => 5);
	($result) = meet($s, '-m', '2.5');
	is($result->{body}, '{"typ', '… only some bytes');

	# Other answers.
	fault($s, action => 'answer', status => 502, body => "<html>/\x{e9}",
		headers => { 'Content-Type' => 'text/html', 'X-Twice' => [ 'a', 'b' ],
			'Retry-After' => '5' });
	($result, @lines) = meet($s);
	is($result->{status}, 502, "$scheme answer: status");
	is($result->{body}, "<html>/\xc3\xa9", '… body');
	like($result->{headers}, qr{^Content-Type: text/html\r$}m, '… type');
	unlike($result->{headers}, qr{application/json}, '… no other');
	like($result->{headers}, qr{^X-Twice: a\r\nX-Twice: b\r$}m, '… twice');
	is(is_there($s), 0, '… not executed');
	is($lines[0]{http_status}, 502, '… says the journal');
	fault($s, action => 'answer', status => 500, executed => JSON::PP::true(),
		body_base64 => encode_base64("\0\1\xff", ''));
	($result, @lines) = meet($s);
	is($result->{body}, "\0\1\xff", '… any bytes');
	is(is_there($s), 1, '… executed, if asked to');
	ok($lines[0]{executed}, '… says the journal');
	fault($s, action => 'answer');
	($result) = meet($s);
	is($result->{status}, 200, '… by default 200');
	is($result->{body}, '', '… and empty');
	fault($s, action => 'answer', body => 'ab', headers => { 'Content-Length' => '7' });
	# not every curl shows a header that it refuses
	my $head = raw_answer($s, "POST /api/createWithdrawal/ HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\n"
		. "Content-Length: 2\r\n\r\n{}", qr/\r\n\r\n/);
	is(scalar(() = $head =~ /^Content-Length: [27]\r$/mg), 2, '… Content-Length twice');
	fault($s, action => 'answer', body => 'ab', headers => { 'Transfer-Encoding' => 'chunked' });
	($result) = meet($s);
	is($result->{body}, 'ab', '… chunked');
	like($result->{headers}, qr/^Transfer-Encoding: chunked\r$/m, '… it says');

	# A gigabyte: 200 MB here, for time's sake, and the memory it takes.
	fault($s, action => 'answer', body => 'x' x 1000, repeat => 200_000);
	my ($memory_before) = slurp("/proc/$s->{pid}/status") =~ /^VmHWM:\s+(\d+)/m;
	$result = call($s, 'createWithdrawal', {}, '-o', '/dev/null', '-w', '%{size_download}',
		'-m', '60');
	my ($memory_after) = slurp("/proc/$s->{pid}/status") =~ /^VmHWM:\s+(\d+)/m;
	is($result->{status}, 200_000_000, "$scheme answer: 200 MB");
	cmp_ok($memory_after - $memory_before, '<', 4096, '… in less than 4 MB of memory');
	fault($s, action => 'answer', body => 'abc', repeat => 5);
	($result) = meet($s);
	is($result->{body}, 'abc' x 5, '… each byte in its place');

	# Look-ups that find nothing.
	control($s, 'POST', 'reset');
	answer_of($s, 'createOrder', { currency => 'RUB', amount => 1, order_id => 'o' });
	in_time(2000, sub {
		fault($s, action => 'hide', ms => $_[0]);
		($result, @lines) = meet($s);
		my $there = is_there($s);
		my $listed = grep { $_->{payment_id} eq "p$number" } @{ answer_of($s, 'withdrawals')->{data} };
		return sub {
			is($there, 0, "$scheme hide: the payout is not found");
			is($listed, 0, '… nor listed');
		};
	});
	is($result->{status}, 200, '… but answered');
	is($lines[0]{fault}, undef, '… no fault, says the journal');
	is($lines[0]{verdict}, 'success', '… a success');
	is(answer_of($s, 'order', { payment_id => 'o' })->{type}, 'success', '… orders are found');
	is(scalar(grep { $_->{payment_id} eq "p$number" } @{ control($s, 'GET', 'state')->{data}{withdrawals} }),
		1, '… the state knows it');
	is(appears($s), 1, '… found later');
	fault($s, method => 'order', action => 'hide', ms => 1000);
	is(answer_of($s, 'order', { payment_id => 'o' })->{desc}, 'Order not found',
		'… asked by a look-up: that one, too');
	is(is_there($s), 1, '… not the payouts');
	in_time(1500, sub {
		fault($s, action => 'hide', ms => $_[0]);
		fault($s, action => 'execute_then_close');
		($result, @lines) = meet($s);
		my $there = is_there($s);
		return sub { is($there, 0, '… together with the next fault: not found') };
	});
	is($result->{exit}, $EMPTY, '… no answer');
	is($lines[0]{fault}, 'execute_then_close', '… which the journal names');
	is(appears($s), 1, '… found later');

	# The queue.
	control($s, 'POST', 'reset');
	fault($s, action => 'answer', status => 501, skip => 1, times => 2);
	fault($s, action => 'answer', status => 502);
	fault($s, method => '*', action => 'answer', status => 503);
	is_deeply([ map { call($s, 'createWithdrawal', { %payout, payment_id => 'q' })->{status} } 1 .. 5 ],
		[ 503, 501, 501, 502, 200 ],
		"$scheme: the method's queue first, in order; who is skipped meets the other");
	fault($s, method => '*', action => 'answer', status => 503);
	is(call($s, 'balance')->{status}, 503, '… any method');
	is(call($s, 'balance')->{status}, 200, '… once');
	fault($s, method => 'balance', action => 'answer', status => 504, times => -1);
	is_deeply([ map { call($s, 'balance')->{status} } 1 .. 3 ], [ (504) x 3 ], '… without end');
	is_deeply(control($s, 'GET', 'fault')->{data},
		[ { method => 'balance', action => 'answer', status => 504, times => -1, skip => 0 } ],
		'… listed');
	is(call($s, 'balance', {}, '-A', 'node')->{status}, 403, '… behind the CDN');
	control($s, 'DELETE', 'fault');
	is_deeply(control($s, 'GET', 'fault')->{data}, [], '… deleted');
	is(call($s, 'balance')->{status}, 200, '… gone');
	fault($s, action => 'execute_then_close');
	forget_journal($s);
	is(call($s, 'createWithdrawal', \%payout, '-H', 'Authorization: Bearer x')->{exit}, $EMPTY,
		'… a wrong signature meets it');
	ok(!(journal($s))[0]{executed}, '… and executes nothing');

	# Mistakes.
	for (
		[ { action => 'reset' }, qr/^"method" is missing; valid methods: \*, createOrder, / ],
		[ { method => 'x', action => 'reset' }, qr/^unknown method "x"; valid methods: \*, / ],
		[ { method => '*' }, qr/^"action" is missing; valid actions: close_before_read, / ],
		[ { method => '*', action => 'x' }, qr/^unknown action "x"; valid actions: .*, hide, settle, push$/ ],
		[ { method => '*', action => 'reset', ms => 1 },
			qr/^unknown field "ms" of action "reset"; valid fields: method, skip, times, action$/ ],
		[ { method => '*', action => 'hold' }, qr/^"ms" is missing; action "hold" needs it$/ ],
		[ { method => '*', action => 'cut' }, qr/^"bytes" is missing/ ],
		[ { method => '*', action => 'hold', ms => -1 }, qr/^"ms" must be an integer from 0 to / ],
		[ { method => '*', action => 'hold', ms => '1' }, qr/^"ms" must be an integer/ ],
		[ { method => '*', action => 'reset', times => 0 }, qr/^"times" must be at least 1/ ],
		[ { method => '*', action => 'reset', skip => -1 }, qr/^"skip" must be/ ],
		[ { method => '*', action => 'answer', status => 100 }, qr/^"status" must be/ ],
		[ { method => '*', action => 'answer', body => 'a', body_base64 => 'YQ==' }, qr/exclude/ ],
		[ { method => '*', action => 'answer', body_base64 => '*' }, qr/is not base64/ ],
		[ { method => '*', action => 'answer', headers => { 'a' => 1 } }, qr/^header "a" must be/ ],
		[ { method => '*', action => 'answer', headers => { 'a' => "x\ny" } }, qr/can't be sent/ ],
		[ { method => '*', action => 'answer', executed => 1 }, qr/^"executed" must be/ ],
		[ { method => '*', action => 'answer', body => 'ab', repeat => 2**40 }, qr/terabyte/ ],
		[ '[]', qr/must be a JSON object/ ],
		[ '{', qr/^the body is not JSON: / ],
		[ '{"method":"*","method":"*","action":"reset"}', qr/duplicate/ ])
	{
		my $answer = control($s, 'POST', 'fault', $_->[0]);
		is($answer->{http_status}, 400, "$scheme: a mistake");
		like($answer->{desc}, $_->[1], "… $answer->{desc}");
	}
	is_deeply(control($s, 'GET', 'fault')->{data}, [], 'nothing of that is queued');

	# It ends while much waits.
	fault($s, action => 'hold', ms => 60000);
	fault($s, action => 'drip', ms => 60000);
	fault($s, action => 'length');
	fault($s, action => 'execute_later', ms => 60000);
	meet($s, '-m', '0.2') for 1 .. 4;
	is(stop_sandbox($s), 0, "$scheme: it ends at once while requests wait");
}

# On a kept-alive connection, a body that is too long reaches into the next
# answer; the connection counts in the journal.
my $s = start_sandbox('http');
fault($s, method => 'balance', action => 'length', length => 10);
forget_journal($s);
my $socket = raw_socket($s);
my $read = '';
for (1, 2)
{
	print $socket "POST /api/balance/ HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\n"
		. "Content-Length: 2\r\n\r\n{}";
	# the first is whole with its ten bytes, the second with what follows them
	my $whole = $_ == 1 ? qr/\r\n\r\n.{10}/s : qr/ 200.* 200/s;
	until ($read =~ $whole)
	{
		sysread $socket, $read, 10000, length $read or last;
	}
}
like($read, qr/Content-Length: 10\r\n\r\n\{"type":"error".*\}HTTP\/1.1 200/s,
	'the rest of a body stands before the next answer');
my @lines = journal($s);
is_deeply([ map { $_->{request} } @lines ], [ 1, 2 ], 'requests of a connection');
is($lines[0]{connection}, $lines[1]{connection}, 'of the same');
is(stop_sandbox($s), 0, 'it ends');

done_testing();
