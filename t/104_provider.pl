# 104_provider.pl: the outbox while the provider, the network, the clock or
# people do what they should not.
#
# Each story has a database and a sandbox of its own, so that none is in the way
# of another; the settings are such that what takes minutes takes seconds here:
# tegro.timeout is 1 s, tegro.review_after 3 s.  Requests whose outcome is
# unknown are left to the background worker, several at a time, and looked at
# once all have had their time.
#
# What was executed is the sandbox's journal; what the outbox says is compared
# with it by script/check-outbox at the end of a story.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use JSON::PP;
use MIME::Base64;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use TegroTest;
use TegroOutbox qw(outbox_cluster enqueue executions LONG);

my $node = outbox_cluster(
	'provider', sandbox(),
	kill_points => 0,
	conf => <<'END');
max_worker_processes = 40
max_connections = 60
log_min_messages = warning
synchronous_commit = off
END
my $json = JSON::PP->new->canonical;
my $credentials = $node->safe_psql('postgres', 'SHOW tegro.credentials_file');

# Sets what only a reload sets, for all stories that follow.
sub set
{
	my ($name, $value) = @_;

	$node->append_conf('postgresql.conf', "$name = $value");
	$node->reload;
	$node->poll_query_until('postgres', "SELECT current_setting('$name') = $value")
	  or die "$name was not set";
	return;
}

# Lines of the credentials file, from now on.
sub write_credentials
{
	my (@lines) = @_;

	# in place: it keeps its owner and mode
	open(my $file, '>', $credentials) or die "could not write $credentials: $!";
	print {$file} map { "$_\n" } @lines;
	close($file) or die "could not write $credentials: $!";
	$node->reload;
	return;
}

# Runs one of the stories below, as a subtest in a database of its own;
# TEGRO_ONLY, a pattern, chooses among them.
my ($database, $sandbox, $session);

sub story
{
	my ($name, $code, %options) = @_;

	return if defined $ENV{TEGRO_ONLY} && $name !~ /$ENV{TEGRO_ONLY}/;
	note($name);
	my $begun = time;
	$database = $name =~ s/\W/_/gr;
	$sandbox = sandbox(arguments => $options{arguments} // []);
	$node->safe_psql('postgres', qq{CREATE DATABASE "$database" } . ($options{like} // ''));
	$session = session($node, database => $database);
	set_server($node, { 'tegro.api_url' => $sandbox->api_url }, $session);
	$session->query('CREATE EXTENSION tegro');
	$session->close;
	$session = session($node, database => $database);
	subtest($options{faults} ? "$options{faults}: $name" : $name, $code);
	$session->close;
	$node->safe_psql('postgres', qq{DROP DATABASE "$database" WITH (FORCE)});
	$sandbox->stop;
	note(sprintf('%s took %.1f s', $name, time - $begun));
	return;
}

# Enqueues a request: an order if its name begins with O, else a payout.
sub ask
{
	my ($reference, %more) = @_;

	return enqueue($session, $reference =~ /^O/ ? 'createOrder' : 'createWithdrawal', $reference, %more);
}

# A column of a row.
sub get
{
	my ($reference, $what) = @_;

	return $session->query("SELECT $what FROM tegro_outbox WHERE reference = '$reference'")->{out};
}

sub state_of { return get($_[0], 'state'); }

# Waits until a row has one of some states; returns the one that it has then.
sub wait_state
{
	my ($reference, $states, $patience) = @_;
	my $state;

	wait_until(
		sub {
			$state = state_of($reference);
			return 1 if $state =~ /^(?:$states)$/;
			sleep 0.05;
			return 0;
		},
		$patience // 120);
	return $state;
}

# Waits until a query's result is true.
sub becomes_true
{
	my ($query, $patience) = @_;

	return wait_until(
		sub {
			return 1 if $session->query($query)->{out} eq 't';
			sleep 0.05;
			return 0;
		},
		$patience // 120);
}

# Has a request meet a fault; leaves it once it is known that it did.
sub meet
{
	my ($reference, $action, %fault) = @_;
	my $method = $reference =~ /^O/ ? 'createOrder' : 'createWithdrawal';

	$sandbox->fault($method, $action, %fault);
	ask($reference);
	my $state = wait_state($reference, 'unknown|review|accepted|refused');
	return $state;
}

# The requests for a reference, of some method; those that executed late are
# told twice.
sub requests_for
{
	my ($reference, $method) = @_;

	return grep {
		my $params = $_->{params} // {};
		my ($name) = grep { ($params->{$_} // '') eq $reference } qw(order_id payment_id);

		defined $name && !$_->{deferred} && (!$method || $_->{method} eq $method)
	} $sandbox->journal;
}

sub sends_of
{
	my ($reference) = @_;

	return requests_for($reference, $reference =~ /^O/ ? 'createOrder' : 'createWithdrawal');
}

sub look_ups_of
{
	my ($reference) = @_;

	return requests_for($reference, $reference =~ /^O/ ? 'order' : 'withdrawal');
}

sub executed
{
	my ($reference) = @_;
	my $method = $reference =~ /^O/ ? 'createOrder' : 'createWithdrawal';

	return executions($sandbox)->{"$method $reference"} // 0;
}

# Looks at a request once it ought to be settled.
sub settled
{
	my ($name, $reference, $state, $executions) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	# nothing leads out of "accepted", so there is no need to wait on
	my $is = wait_state($reference, "$state|accepted");
	my $times = executed($reference);
	ok($is eq $state && $times == $executions, "$name: $state, and executed $executions times")
	  or diag("it is $is, and was executed $times times: ", get($reference, 'message'));
	return;
}

# Compares the outbox with the journal: a test.  The sandbox's state is that of
# one shop.
sub agree
{
	my (%options) = @_;
	my ($out, $err) = ('', '');

	$sandbox->control('POST', 'flush');
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => $database);
	my $ok = IPC::Run::run(
		[ "$FindBin::RealBin/../script/check-outbox", '--journal', $sandbox->{journal},
			'--sandbox', $options{shops} ? '' : $sandbox->url ],
		'<', \undef, '>', \$out, '2>', \$err);
	ok($ok, "outbox and provider agree on $database") or diag("$out$err");
	return;
}

sub worker
{
	return $session->query(q{SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'tegro delivery worker' AND datname = current_database()})->{out};
}

# Seconds until a row is looked at again.
sub due_in { return get($_[0], 'extract(epoch FROM next_at - clock_timestamp())'); }


#
# 25, 26, 27, 34, 36, 38 to 41: the answer is lost, or worth nothing
#

my $success = '{"type":"success","desc":"","data":{"id":1,"url":"https://tegro.money/pay/x"}}';
my $page = "<html>\n<head><title>502 Bad Gateway</title></head>\n</html>\n";
# each with the fault that it is
my @lost = (
	[ 25, 'closed before it is read', 'close_before_read' ],
	[ 25, 'read, then closed', 'close_after_read' ]);
my @executed = (
	[ 26, 'executed, then closed', 'execute_then_close' ],
	[ 26, 'executed, then reset', 'reset' ],
	[ 34, 'an answer that is cut', 'cut', bytes => 20 ],
	[ 34, 'an answer that is cut to nothing', 'cut', bytes => 0 ],
	[ 36, 'a Content-Length that is too long', 'length', length => 1000 ],
	[ 36, 'a Content-Length that is too short', 'length', length => 10 ],
	[ 38, 'a byte at a time', 'drip', ms => 200 ]);
my @useless = (
	[ 34, 'an empty answer', status => 200, body => '' ],
	[ 34, 'cut JSON', status => 200, body => substr($success, 0, 40) ],
	[ 34, 'a 502 with HTML', status => 502, body => $page ],
	[ 34, 'a 200 with HTML', status => 200, body => $page ],
	[ 34, 'a 500 that says success', status => 500, body => $success ],
	[ 34, 'a 500 that says error', status => 500, body => '{"type":"error","desc":"Nothing was done"}' ],
	[ 34, 'a 204', status => 204, body => '' ],
	[ 41, 'a redirect', status => 307, headers => { Location => 'http://127.0.0.1:9/api/' }, body => $success ],
	[ 41, 'a 302', status => 302, headers => { Location => 'https://example.org/' }, body => '' ],
	[ 34, 'a success without data', status => 200, body => '{"type":"success","desc":""}' ],
	[ 34, 'a success with data null', status => 200, body => '{"type":"success","desc":"","data":null}' ],
	[ 34, 'no type', status => 200, body => '{"data":{"id":1}}' ],
	[ 34, 'type true', status => 200, body => '{"type":true,"data":{"id":1}}' ],
	[ 34, 'an array', status => 200, body => "[$success]" ],
	[ 34, 'a string', status => 200, body => '"success"' ],
	[ 34, 'two answers', status => 200, body => "$success$success" ],
	[ 40, 'a NUL escaped', status => 200, body => '{"type":"success","data":{"id":1,"note":"\u0000"}}' ],
	[ 40, 'a NUL', status => 200, body_base64 => encode_base64("{\"type\":\"success\",\0\"data\":{}}", '') ],
	[ 40, 'half a surrogate pair', status => 200, body => '{"type":"success","data":{"note":"\ud800"}}' ],
	[ 40, 'bytes that are not UTF-8', status => 200, body_base64 => encode_base64("{\"type\":\"success\",\"data\":{\"n\":\"\xff\xfe\"}}", '') ],
	[ 39, 'a number that is too large', status => 200, body => '{"type":"success","data":{"id":1e400000}}' ],
	[ 39, 'brackets 100,000 deep', status => 200, body => '{"type":"success","data":' . '[' x 100_000 . ']' x 100_000 . '}' ],
	[ 38, 'a string of 1 GB', status => 200, body => 'x' x 65536, repeat => 16384 ]);

story(
	'answers',
	sub {
		my @cases;
		my $number = 0;

		ask('O-first');
		wait_state('O-first', 'accepted');
		my $hwm = vm_hwm_kb(worker());
		foreach my $case (@lost, map({ [ @$_[ 0, 1 ], 'answer', @$_[ 2 .. $#$_ ] ] } @useless))
		{
			my ($fault, $name, $action, %fault) = @$case;

			foreach my $kind ('O', 'W')
			{
				my $reference = "$kind-lost-" . ++$number;
				meet($reference, $action, %fault);
				push @cases, [ $fault, "$name, and not executed", $reference, $kind eq 'O' ? ('accepted', 1) : ('review', 0) ];
			}
		}
		foreach my $case (@executed,
			map({ [ @$_[ 0, 1 ], 'answer', @$_[ 2 .. $#$_ ], executed => JSON::PP::true ] } @useless))
		{
			my ($fault, $name, $action, %fault) = @$case;

			foreach my $kind ('O', 'W')
			{
				# on a connection that was used before
				my $before = "$kind-plain-" . ++$number;
				my $reference = "$kind-$number";
				ask($before);
				wait_state($before, 'accepted');
				meet($reference, $action, %fault);
				push @cases, [ $fault, "$name, but executed", $reference, 'accepted', 1 ];
			}
		}
		settled("fault $_->[0]: " . ($_->[2] =~ /^O/ ? 'order' : 'payout') . ", $_->[1]", @$_[ 2 .. 4 ]) foreach @cases;

		# 27
		my %kept_alive;
		$kept_alive{ $_->{fault} }++
		  foreach grep { $_->{fault} && $_->{request} > 1 } $sandbox->journal;
		is(join(' ', grep { !$kept_alive{$_} } qw(execute_then_close reset cut)), '',
			'fault 27: connections that broke had been kept alive');
		my %sent;
		$sent{ $_->{nonce} }++ foreach grep { !$_->{deferred} } $sandbox->journal;
		is(join(' ', grep { $sent{$_} > 1 } keys %sent), '', 'fault 27: no request was sent twice over');

		is($session->query(q{SELECT DISTINCT encode(raw_answer, 'escape') FROM tegro_event WHERE http_status = 502})->{out}, $page,
			'what came in place of an answer is kept');
		is($session->query('SELECT max(length(raw_answer)) FROM tegro_event')->{out}, 8192, 'up to 8 kB of it');
		cmp_ok(vm_hwm_kb(worker()) - $hwm, '<', 64 * 1024, 'fault 38: the worker did not grow by more than 64 MB');
		agree();
	});


#
# 28 to 30: late answers, late executions, late lookups
#

story(
	'late',
	sub {
		# 28
		$sandbox->fault('createWithdrawal', 'execute_then_hold', ms => 1800);
		$sandbox->fault('createOrder', 'execute_then_hold', ms => 1800);
		ask($_) foreach qw(W-slow O-slow);
		# the same, and a lookup does not find it before the answer is there
		wait_state($_, 'accepted') foreach qw(W-slow O-slow);
		settled('fault 28: a payout answered after tegro.timeout', 'W-slow', 'accepted', 1);
		settled('fault 28: an order answered after tegro.timeout', 'O-slow', 'accepted', 1);
		ok(becomes_true(q{SELECT count(*) = 2 FROM tegro_event WHERE outcome = 'answered' AND http_status = 200}),
			'fault 28: the late answers are kept');
		$sandbox->fault('createOrder', 'hide', ms => 3000);
		$sandbox->fault('createOrder', 'execute_then_hold', ms => 1800);
		ask('O-late');
		is(wait_state('O-late', 'unknown'), 'unknown', 'fault 28: one that is not found meanwhile is unknown');
		settled('fault 28: a late answer', 'O-late', 'accepted', 1);
		like(get('O-late', q{answer #>> '{data,url}'}), qr/^https/, 'and brings the link');
		is(get('O-late', 'attempts'), 1, 'it was sent once');

		# a refusal that comes late
		$sandbox->fault('createWithdrawal', 'hold', ms => 1500);
		ask('W-refused', amount => 1e8);
		settled('a late refusal', 'W-refused', 'refused', 0);

		# 29, 30
		meet('W-later', 'execute_later', ms => 10_000);
		meet('O-later', 'execute_later', ms => 3000);
		$sandbox->fault('createWithdrawal', 'hide', ms => 2000);
		meet('W-hidden', 'execute_then_close');
		$sandbox->fault('createOrder', 'hide', ms => 4000);
		meet('O-hidden', 'execute_then_close');
		is(wait_state('W-later', 'review'), 'review', 'fault 29: a payout that is not found over the settle time waits for a person');
		is(executed('W-later'), 0, 'fault 29: before it is executed');
		settled('fault 29: a payout that is executed after that', 'W-later', 'accepted', 1);
		settled('fault 30: a payout that lookups do not show at first', 'W-hidden', 'accepted', 1);
		settled('fault 30: an order that lookups do not show at first', 'O-hidden', 'accepted', 1);
		settled('fault 29: an order that is executed later', 'O-later', 'accepted', 1);
		is(scalar(sends_of($_)), 1, "faults 29, 30: $_ was sent once") foreach qw(W-later W-hidden O-hidden O-later);

		$session->query(q{UPDATE tegro_outbox SET next_at = now() + interval '1 hour' WHERE next_at IS NOT NULL});
		agree();
	});

# A late answer that says otherwise than a person has decided meanwhile
story(
	'decided',
	sub {
		set('tegro.claim_timeout', q{'20s'});
		$session->query($_) foreach split(/;\n/, <<'END');
CREATE TABLE calls (n serial, reference text, state text, type text);
CREATE FUNCTION called(id bigint, state text, reference text, answer jsonb) RETURNS void
BEGIN ATOMIC INSERT INTO calls (reference, state, type) VALUES (reference, state, answer ->> 'type'); END
END
		my $calls = q{SELECT string_agg(concat_ws(' ', state, type), ', ' ORDER BY n) FROM calls WHERE reference = '%s'};
		my %requests;

		# not found by lookups meanwhile
		$sandbox->fault('createWithdrawal', 'hide', ms => 60_000, times => 2);
		$sandbox->fault('createWithdrawal', 'execute_then_hold', ms => 8000, times => 2);
		foreach my $reference ('W-failed', 'W-cancelled')
		{
			my $arguments = TegroOutbox::enqueue_arguments('createWithdrawal', $reference);

			$requests{$reference} =
			  $session->query("SELECT tegro_enqueue($arguments, 'called(bigint,text,text,jsonb)')")->{out};
		}
		is(wait_state($_, 'unknown'), 'unknown', "$_ has no answer yet") foreach sort keys %requests;
		is($session->query("SELECT tegro_resolve($requests{'W-failed'}, 'refused', 'they say so')")->{sqlstate}, '',
			'a person takes it for failed');
		# with the doubt on record, it would be in review
		is( $session->query("BEGIN; SELECT tegro_resolve($requests{'W-cancelled'}, 'resend', 'they say so');
			UPDATE tegro_outbox SET unknown_since = NULL WHERE id = $requests{'W-cancelled'};
			SELECT tegro_cancel($requests{'W-cancelled'}); COMMIT")->{sqlstate}, '', 'and takes the other back');
		ok(becomes_true(q{SELECT callback_state = 'done' FROM tegro_outbox WHERE reference = 'W-failed'}),
			'what failed is called back');
		is(state_of('W-failed'), 'refused', 'it is "refused"');
		is(state_of('W-cancelled'), 'cancelled', 'the other is "cancelled"');

		settled('answered after it was resolved as failed', 'W-failed', 'accepted', 1);
		settled('answered after it was cancelled', 'W-cancelled', 'accepted', 1);
		like(get('W-failed', 'message'), qr/^it took effect after all: resolved as refused by .*: they say so$/, 'which is told');
		like(get('W-cancelled', 'message'), qr/^it took effect after all: cancelled by /, 'of the other, too');
		ok(becomes_true(q{SELECT count(*) = 2 FROM tegro_outbox WHERE callback_state = 'done'}), 'both are called back');
		is($session->query(sprintf($calls, 'W-failed'))->{out}, 'refused, accepted success', 'the first one again');
		is($session->query(sprintf($calls, 'W-cancelled'))->{out}, 'accepted success', 'the other for the first time');
		is($session->query("SELECT tegro_retry($requests{$_})")->{sqlstate}, '55000', "$_ is not sent again")
		  foreach sort keys %requests;
		agree();
		set('tegro.claim_timeout', q{'4s'});
	});


# A shop whose payouts hang, and the others
story(
	'hanging',
	sub {
		set('tegro.claim_timeout', q{'20s'});
		$session->query(qq{ALTER DATABASE "$database" SET tegro.max_concurrency = 4});
		$sandbox->fault('createWithdrawal', 'execute_then_hold', ms => 12000, times => 8);
		ask("W-hanging-$_") foreach 1 .. 8;
		ok(wait_until(sub { sleep 0.05; return 8 == grep { $_->{method} eq 'createWithdrawal' } $sandbox->journal }),
			'twice as many requests hang as there are places');
		my $from = time;
		ask('O-behind');
		settled('an order behind them', 'O-behind', 'accepted', 1);
		cmp_ok(own_ms($from), '<', 6000, 'does not wait much longer than tegro.timeout');
		settled('what hung', "W-hanging-$_", 'accepted', 1) foreach 1, 8;
		agree();
		set('tegro.claim_timeout', q{'4s'});
	});


#
# 31, 32: lookups that fail, and lookups that find something else
#

story(
	'lookups',
	sub {
		my @failures = (
			[ 'close_after_read' ],
			[ 'reset' ],
			[ 'cut', bytes => 10 ],
			[ 'answer', status => 500, body => '{"type":"error","desc":"Withdrawal not found"}' ],
			[ 'answer', status => 502, body => $page ],
			[ 'answer', status => 404, body => '<html>not found</html>' ],
			[ 'answer', status => 200, body => '{"type":"error","desc":"Internal error"}' ],
			[ 'answer', status => 200, body => '{"type":"error","desc":""}' ],
			[ 'answer', status => 200, body => '{"type":"error"}' ],
			[ 'answer', status => 200, body => '' ],
			[ 'answer', status => 200, body => '{"type":"success"}' ],
			[ 'answer', status => 200, body => '{"type":"success","data":"none"}' ],
			[ 'hold', ms => 1200 ]);

		# each fails as often as there are ways to, before one finds it
		meet('W-1', 'execute_then_close');
		settled('a payout', 'W-1', 'accepted', 1);
		foreach my $failure (@failures)
		{
			my ($action, %fault) = @$failure;

			$sandbox->fault('withdrawal', $action, %fault);
		}
		# until it was looked at
		$sandbox->fault('withdrawal', 'answer', times => -1, status => 503, body => $page);
		$sandbox->fault('createWithdrawal', 'close_after_read');
		ask('W-absent');
		my $seen = 0;
		foreach my $failure (@failures)
		{
			$seen++;
			# not to wait for the back-off
			wait_until(
				sub {
					$session->query(q{SELECT tegro_refresh(id) FROM tegro_outbox WHERE reference = 'W-absent' AND state = 'unknown'});
					sleep 0.05;
					return look_ups_of('W-absent') >= $seen;
				});
			becomes_true(q{SELECT claimed_until IS NULL FROM tegro_outbox WHERE reference = 'W-absent'});
		}
		becomes_true(q{SELECT message ~ 'lookup failed' FROM tegro_outbox WHERE reference = 'W-absent'});
		is(get('W-absent', q{state || ' ' || absent}), 'unknown 0',
			'fault 31: no lookup that fails counts as "not found"');
		$sandbox->clear_faults;
		settled('a payout that is not found once lookups work', 'W-absent', 'review', 0);
		$session->query(q{UPDATE tegro_outbox SET next_at = NULL});

		# 31
		meet('W-2', 'execute_then_close');
		settled('a payout', 'W-2', 'accepted', 1);
		$sandbox->fault('withdrawal', 'answer', times => -1, status => 503, body => $page);
		$sandbox->fault('order', 'answer', times => -1, status => 503, body => $page);
		meet($_, 'execute_then_close') foreach qw(W-stuck O-stuck);
		sleep 4.5;
		is(state_of($_), 'unknown', "fault 31: $_ stays unknown while lookups fail, past the settle time")
		  foreach qw(W-stuck O-stuck);
		cmp_ok(scalar(look_ups_of('W-stuck')), '<=', 5, 'fault 31: the lookups become fewer');
		cmp_ok(get('W-stuck', 'failures'), '>=', 2, 'as they fail');
		# as if it had failed for an hour
		$session->query(q{UPDATE tegro_outbox SET failures = 40, next_at = now() WHERE reference = 'W-stuck'});
		query($node, 'CALL tegro_deliver()', database => $database);
		ok(becomes_true(q{SELECT failures = 41 FROM tegro_outbox WHERE reference = 'W-stuck'}), 'after an hour of that');
		cmp_ok(due_in('W-stuck'), '>', 400, 'fault 31: they are minutes apart');
		cmp_ok(due_in('W-stuck'), '<', 13 * 60, 'fault 31: and not more than about ten');
		$sandbox->clear_faults;
		$session->query(q{SELECT tegro_refresh(id) FROM tegro_outbox WHERE state = 'unknown'});
		settled('fault 31: what was stuck', $_, 'accepted', 1) foreach qw(W-stuck O-stuck);

		# 32
		my %other = (
			'another amount' => [ { amount => '10.01', currency => 'RUB', account => '4111' }, 'review' ],
			'another account' => [ { amount => '10.00000000', currency => 'RUB', account => '4112' }, 'review' ],
			'another currency' => [ { amount => '10.00', currency => 'USD', account => '4111' }, 'review' ],
			'the same, written otherwise' => [ { amount => '0010.000', currency => 'RUB', account => '4111' }, 'accepted' ],
			'the same as a number' => [ { amount => 10, currency => 'RUB', account => 4111 }, 'accepted' ],
			'less fields' => [ { amount => 10, currency_id => 7, account => undef }, 'accepted' ]);
		my $number = 0;
		foreach my $name (sort keys %other)
		{
			my ($data, $state) = @{ $other{$name} };
			my $reference = 'W-other-' . ++$number;

			$sandbox->fault('withdrawal', 'answer', status => 200,
				body => $json->encode({ type => 'success', desc => '', data => { %$data, payment_id => $reference } }));
			meet($reference, 'execute_then_close');
			is(wait_state($reference, 'review|accepted'), $state, "fault 32: a lookup that finds $name: $state");
			# not to be looked up again: the next answer is for the next
			$session->query("UPDATE tegro_outbox SET next_at = NULL WHERE reference = '$reference'");
			like(get($reference, 'message'), qr/different: .* was asked for, .* is there/, 'and says what differs')
			  if $state eq 'review';
		}
		# a number that is another but for its letters' case
		$sandbox->fault('withdrawal', 'answer', status => 200,
			body => $json->encode({ type => 'success', desc => '', data => { payment_id => 'w-OTHER-8', amount => 10 } }));
		meet('W-other-8', 'execute_then_close');
		ok(becomes_true(q{SELECT message = 'the lookup''s answer is about another number' FROM tegro_outbox
			WHERE reference = 'W-other-8'}), 'fault 32: a lookup that finds another number proves nothing');
		settled('fault 32: the next lookup finds it', 'W-other-8', 'accepted', 1);
		$session->query(q{SELECT tegro_resolve(id, 'accepted', 'checked') FROM tegro_outbox WHERE state = 'review'
			AND reference LIKE 'W-other%'});
		# one that the body writes otherwise
		meet('O-/7', 'execute_then_close');
		settled('an order whose number has a slash', 'O-/7', 'accepted', 1);
		agree();
	});


#
# 57 to 60, 62: what a doubt is, and how it ends
#

# Has something in doubt looked up at once; leaves it when that is on record.
sub look_up_now
{
	my ($reference) = @_;
	my $claim_no = get($reference, 'claim_no');

	$session->query("SELECT tegro_refresh(id) FROM tegro_outbox WHERE reference = '$reference'");
	# what is accepted is not looked up any more
	return becomes_true("SELECT claim_no > $claim_no AND claimed_until IS NULL OR state = 'accepted'
		FROM tegro_outbox WHERE reference = '$reference'");
}

# The body of an answer with some "data".
sub success
{
	my ($data) = @_;

	return $json->encode({ type => 'success', desc => '', data => $data });
}

story(
	'doubt',
	sub {
		my $decide = sub {
			my ($reference, $decision) = @_;

			is($session->query("SELECT tegro_resolve(id, '$decision', 'he thinks so') FROM tegro_outbox
				WHERE reference = '$reference'")->{err}, '', "a person takes $reference for not executed: $decision");
		};
		my $refusal = '{"type":"error","desc":"Wrong currency"}';

		$sandbox->fault('createWithdrawal', 'hide', ms => 12_000);
		meet($_, 'execute_then_close') foreach qw(W-resent W-retried);
		subtest 'fault 57: a refusal of a later send says nothing about an earlier one' => sub {
			foreach my $reference (qw(W-resent W-retried))
			{
				is(wait_state($reference, 'review'), 'review', "$reference is not found");
				$sandbox->fault('createWithdrawal', 'answer', status => 200, body => $refusal);
				if ($reference eq 'W-resent')
				{
					$decide->($reference, 'resend');
				}
				else
				{
					$decide->($reference, 'refused');
					$session->query("SELECT tegro_retry(id) FROM tegro_outbox WHERE reference = '$reference'");
				}
				becomes_true("SELECT count(*) = 2 AND bool_and(ended_at IS NOT NULL) FROM tegro_event
					JOIN tegro_outbox ON id = outbox_id WHERE event = 'send' AND reference = '$reference'");
				is(wait_state($reference, 'review|refused'), 'review', "$reference is refused when it is sent again");
				like(get($reference, 'message'), qr/^refused, but an earlier attempt may have taken effect: .*Wrong currency/,
					'its message says why a person has it');
			}
			# of one that was never in doubt
			$sandbox->fault('createWithdrawal', 'answer', status => 200, body => $refusal);
			ask('W-refused');
			settled('a refusal', 'W-refused', 'refused', 0);
			$sandbox->fault('createWithdrawal', 'answer', status => 200, body => $refusal);
			$session->query(q{SELECT tegro_retry(id) FROM tegro_outbox WHERE reference = 'W-refused'});
			becomes_true(q{SELECT attempts = 2 FROM tegro_outbox WHERE reference = 'W-refused'});
			settled('a refusal, and another one', 'W-refused', 'refused', 0);
		};

		subtest 'fault 58: what is in review is looked up, however it got there' => sub {
			settled('refused after a doubt, then found', $_, 'accepted', 1) foreach qw(W-resent W-retried);
			like(get('W-resent', 'message'), qr/found by lookup/, 'by a lookup');

			$sandbox->fault('withdrawal', 'answer', status => 200,
				body => success({ payment_id => 'W-different', amount => 11 }));
			meet('W-different', 'execute_then_close');
			is(wait_state('W-different', 'review|accepted'), 'review', 'found, but different');
			settled('found, but different, then found as it is', 'W-different', 'accepted', 1);

			set('tegro.max_attempts', q{'1'});
			$sandbox->fault('createOrder', 'hide', ms => 9000);
			meet('O-once', 'execute_then_close');
			is(wait_state('O-once', 'review'), 'review', 'not found, and not to be sent again');
			settled('not found, then found', 'O-once', 'accepted', 1);
			set('tegro.max_attempts', q{'20'});
		};

		set('tegro.review_after', q{'1min'});
		subtest 'fault 59: an answer about another number, or without an amount, proves nothing' => sub {
			my $reference = '01';

			$sandbox->fault('withdrawal', 'answer', times => -1, status => 503, body => $page);
			meet($reference, 'execute_then_close');
			foreach my $data (
				{ payment_id => '1', amount => 10 },
				{ payment_id => 1, amount => 10, currency => 'RUB', account => '4111' },
				{ payment_id => '01 ', amount => 10 },
				{ id => 1, amount => 10 },
				{ id => 1 },
				{ payment_id => '01' },
				{ payment_id => '01', amount => undef },
				{ payment_id => '01', amount => 'ten' },
				'none', 1, JSON::PP::true, [ 1 ])
			{
				$sandbox->clear_faults;
				$sandbox->fault('withdrawal', 'answer', times => -1, status => 200, body => success($data));
				look_up_now($reference);
				is(get($reference, q{state || ' ' || absent}), 'unknown 0', 'nothing is proved by ' . $json->allow_nonref->encode($data));
			}
			$sandbox->clear_faults;
			look_up_now($reference);
			settled('one that is found at last', $reference, 'accepted', 1);
		};

		subtest 'fault 59: an order may be found with its fee' => sub {
			foreach my $case (
				[ 'O-fee', '10.70', '0.7', 'accepted' ],
				[ 'O-other-fee', '10.71', '0.7', 'review' ],
				[ 'O-fee-apart', '10', '0.7', 'accepted' ],
				[ 'W-fee', '10.70', '0.7', 'review' ])
			{
				my ($reference, $amount, $fee, $state) = @$case;

				$sandbox->fault($reference =~ /^O/ ? 'order' : 'withdrawal', 'answer', status => 200,
					body => success({ payment_id => $reference, amount => $amount, fee => $fee }));
				$sandbox->fault($reference =~ /^O/ ? 'createOrder' : 'createWithdrawal', 'execute_then_close');
				ask($reference, amount => 10);
				is(wait_state($reference, 'review|accepted'), $state, "$reference: $amount with a fee of $fee: $state");
			}
		};

		subtest 'fault 60: data that is null, [], {} or false is "not found"' => sub {
			my $absent = 0;

			$sandbox->fault('withdrawal', 'answer', times => -1, status => 503, body => $page);
			meet('W-empty', 'execute_then_close');
			foreach my $data (undef, [], {}, JSON::PP::false)
			{
				$sandbox->clear_faults;
				$sandbox->fault('withdrawal', 'answer', times => -1, status => 200, body => success($data));
				look_up_now('W-empty');
				$absent++;
				is(get('W-empty', q{state || ' ' || absent || ' ' || failures}), "unknown $absent 0",
					'not found: ' . $json->allow_nonref->encode($data));
				my $direct = $session->query(q{SELECT tegro_withdrawal(payment_id => 'W-empty')});
				is($direct->{sqlstate}, 'TG001', '... and a refusal to who asks directly');
				like($direct->{detail}, qr/It found nothing\./, '... which says so');
			}
			foreach my $failure ([ 200, '{"type":"success"}' ], [ 500, success(undef) ], [ 500, success({}) ])
			{
				$sandbox->clear_faults;
				$sandbox->fault('withdrawal', 'answer', times => -1, status => $failure->[0], body => $failure->[1]);
				look_up_now('W-empty');
				is(get('W-empty', q{state || ' ' || absent}), "unknown $absent", "not \"not found\": HTTP $failure->[0], $failure->[1]");
			}
			$sandbox->clear_faults;
			look_up_now('W-empty');
			settled('one that is found at last', 'W-empty', 'accepted', 1);
		};

		# by the provider's own number, which the answer of a send has told
		$sandbox->fault('createOrder', 'answer', status => 200, body => success({ id => 424242 }));
		ask('O-number');
		is(wait_state('O-number', 'accepted|refused'), 'accepted', 'an order that is answered without a link');
		$sandbox->fault('createOrder', 'execute_then_close');
		$sandbox->fault('order', 'answer', status => 200, body => success({ id => 424242, amount => '10' }));
		$session->query(q{SELECT tegro_retry(id) FROM tegro_outbox WHERE reference = 'O-number'});
		becomes_true(q{SELECT message ~ 'found by lookup' FROM tegro_outbox WHERE reference = 'O-number'});
		settled('an order that is found by the provider\'s number', 'O-number', 'accepted', 1);
		is(scalar(grep { $_->{method} eq 'order' && ($_->{params}{order_id} // '') eq '424242' } $sandbox->journal), 1,
			'was looked up by it');
		set('tegro.review_after', q{'3s'});
	});

story(
	'limited',
	sub {
		subtest 'fault 62: a payout is in doubt after 429, and after a refusal for now' => sub {
			my %answers = (
				'a page with 429' => [ 429, $page ],
				'429 and an error' => [ 429, '{"type":"error","desc":"Slow down"}' ],
				'an error about the rate' => [ 200, '{"type":"error","desc":"Too many requests"}' ],
				'a refusal for now' => [ 200, '{"type":"error","desc":"Temporary failure, try again"}' ]);
			my $number = 0;

			foreach my $name (sort keys %answers)
			{
				foreach my $executed (0, 1)
				{
					my $reference = 'W-limited-' . ++$number;

					$sandbox->fault('createWithdrawal', 'answer', status => $answers{$name}[0], body => $answers{$name}[1],
						executed => $executed ? JSON::PP::true : JSON::PP::false);
					ask($reference);
					settled("$name, " . ($executed ? 'and executed' : 'and not executed'), $reference,
						$executed ? ('accepted', 1) : ('review', 0));
					is(scalar(sends_of($reference)), 1, 'it was sent once');
				}
			}
			$sandbox->fault('createOrder', 'answer', status => 429, body => $page);
			ask('O-limited');
			settled('an order after 429', 'O-limited', 'accepted', 1);
			is(scalar(sends_of('O-limited')), 2, 'is sent again');
		};

		# the key is wrong: that is known to be before anything else
		$sandbox->fault('createWithdrawal', 'answer', status => 200, body => '{"type":"error","desc":"Wrong authorization token"}');
		ask('W-unauthorized');
		ok(becomes_true(q{SELECT sqlstate = 'TG001' FROM tegro_outbox WHERE reference = 'W-unauthorized'}),
			'a refusal of the key, with HTTP 200');
		is(get('W-unauthorized', q{state || ' ' || attempts}), 'ready 0', 'leaves a payout ready');
		ask('O-behind');
		sleep 1.5;
		is(scalar(sends_of('O-behind')), 0, 'and the key pauses');
		$node->reload;
		settled('after a reload', $_, 'accepted', 1) foreach qw(W-unauthorized O-behind);
	});

# Rules of the table of transitions that no other story needs: each is tried with
# a row that is set up for it.
story(
	'rules',
	sub {
		my $change = sub {
			my ($reference, $set) = @_;

			is($session->query("UPDATE tegro_outbox SET $set WHERE reference = '$reference'")->{err}, '', "$reference: $set");
		};
		my $decide = sub {
			my ($function, $reference, $arguments) = @_;

			return $session->query("SELECT tegro_$function(id" . ($arguments // '') . ") FROM tegro_outbox
				WHERE reference = '$reference'")->{sqlstate};
		};
		# enqueues one that is not sent yet
		my $keep = sub {
			my ($reference) = @_;
			my $method = $reference =~ /^O/ ? 'createOrder' : 'createWithdrawal';
			my $arguments = TegroOutbox::enqueue_arguments($method, $reference);

			is($session->query("SELECT tegro_enqueue($arguments, deliver_after => now() + interval '1 day')")->{sqlstate},
				'', "$reference waits");
		};
		# of an older timeline, as from before a failover
		my $older = q{origin = regexp_replace(origin, '^(\d+/\d+)/\d+', '\1/0')};

		set('tegro.claim_timeout', q{'20s'});
		# a send whose refusal comes late, when another one is in doubt
		$sandbox->fault('createWithdrawal', 'hold', ms => 6000);
		ask('W-twice', amount => 1e8);
		wait_state('W-twice', 'unknown');
		$sandbox->fault('createWithdrawal', 'close_after_read');
		my $claim_no = get('W-twice', 'claim_no');
		# the next claim raises claim_no as well, but not before the commit
		my $decided = $session->query("BEGIN; SELECT tegro_resolve(id, 'resend', 'he thinks so') FROM tegro_outbox
			WHERE reference = 'W-twice'; SELECT 'claim ' || claim_no FROM tegro_outbox WHERE reference = 'W-twice'; COMMIT");
		is($decided->{err}, '', 'a payout is sent again before its first send is answered');
		cmp_ok($decided->{out} =~ /claim (\d+)/ ? $1 : 0, '>', $claim_no, 'a decision ends the claims before it');

		subtest 'what comes from before a failover was perhaps sent there' => sub {
			$keep->($_) foreach qw(W-inherited W-not-cancelled);
			$change->($_, $older) foreach qw(W-inherited W-not-cancelled);
			is($decide->('cancel', 'W-not-cancelled'), '55000', 'it is not cancelled');
			is($decide->('refresh', $_), '', "$_ is due") foreach qw(W-inherited W-not-cancelled);
			is(wait_state($_, 'unknown|review|accepted', 30), 'unknown', "$_ is unknown") foreach qw(W-inherited W-not-cancelled);
			is(scalar(sends_of($_)), 0, "$_ was not sent") foreach qw(W-inherited W-not-cancelled);
		};

		subtest 'what has sends on record that it does not know of was perhaps sent' => sub {
			$keep->('W-later-event');
			$session->query(q{INSERT INTO tegro_event (outbox_id, event_no, event, claim_no, started_at)
				SELECT id, 5, 'send', 5, now() FROM tegro_outbox WHERE reference = 'W-later-event'});
			is($decide->('refresh', 'W-later-event'), '', 'it is due');
			is(wait_state('W-later-event', 'unknown|review|accepted', 30), 'unknown', 'it is unknown');
			is(scalar(sends_of('W-later-event')), 0, 'it was not sent');
		};

		subtest 'what its role may not pay out is withheld' => sub {
			my $role = 'tegro_test_payer';
			my $arguments = TegroOutbox::enqueue_arguments('createWithdrawal', 'W-withheld');

			$session->query($_) foreach split(/;\n/, <<"END");
CREATE ROLE $role;
GRANT EXECUTE ON FUNCTION tegro_enqueue(text, jsonb, regprocedure, timestamptz), tegro_create_withdrawal(jsonb) TO $role;
SET ROLE $role;
SELECT tegro_enqueue($arguments, deliver_after => now() + interval '1 day');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION tegro_create_withdrawal(jsonb) FROM $role
END
			is($decide->('refresh', 'W-withheld'), '', 'it is due');
			is(wait_state('W-withheld', 'review|accepted', 30), 'review', 'it is in review');
			is(scalar(sends_of('W-withheld')), 0, 'it was not sent');
			is($session->query("DROP OWNED BY $role; DROP ROLE $role")->{err}, '', 'the role is gone');
		};

		subtest 'what was perhaps sent before needs a person when it is cancelled' => sub {
			$keep->('W-doubtful');
			$change->('W-doubtful', q{unknown_since = now() - interval '1 minute'});
			is($decide->('cancel', 'W-doubtful'), '', 'it is taken back');
			is(state_of('W-doubtful'), 'review', 'it is in review');
			is($session->query(q{SELECT e.state FROM tegro_event e JOIN tegro_outbox o ON o.id = e.outbox_id
				WHERE e.event = 'cancelled' AND reference = 'W-doubtful'})->{out}, 'review', 'which is on record');
			ok(wait_until(sub { sleep 0.05; return scalar(look_ups_of('W-doubtful')) }, 30), 'it is looked up');
			is(scalar(sends_of('W-doubtful')), 0, 'it was not sent');
		};

		subtest 'an order that a lookup found gets its link from a late answer' => sub {
			my $arguments = TegroOutbox::enqueue_arguments('createOrder', 'O-linked');
			my $link = q{answer #>> '{data,url}'};

			$session->query($_) foreach split(/;\n/, <<"END");
CREATE TABLE links (n serial, state text, link text);
CREATE FUNCTION linked(id bigint, state text, reference text, answer jsonb) RETURNS void
BEGIN ATOMIC INSERT INTO links (state, link) VALUES (state, coalesce(substr($link, 1, 5), 'none')); END
END
			$sandbox->fault('createOrder', 'execute_then_hold', ms => 8000);
			is($session->query("SELECT tegro_enqueue($arguments, 'linked(bigint,text,text,jsonb)')")->{sqlstate}, '',
				'an order is enqueued');
			settled('an order that is found before it is answered', 'O-linked', 'accepted', 1);
			like(get('O-linked', 'message'), qr/found by lookup/, 'by a lookup');
			is(get('O-linked', $link), '', 'it has no link');
			ok(becomes_true(q{SELECT callback_state = 'done' FROM tegro_outbox WHERE reference = 'O-linked'}),
				'and is called back');
			ok(becomes_true("SELECT $link LIKE 'https%' FROM tegro_outbox WHERE reference = 'O-linked'", 30),
				'the answer brings the link');
			settled('the order is as it was', 'O-linked', 'accepted', 1);
			is(scalar(sends_of('O-linked')), 1, 'it was sent once');
			ok(becomes_true(q{SELECT count(*) = 2 FROM links}, 30), 'and is called back again');
			is($session->query(q{SELECT string_agg(state || ' ' || link, ', ' ORDER BY n) FROM links})->{out},
				'accepted none, accepted https', 'with the link');
		};

		subtest 'an order is not sent again after one lookup, however late' => sub {
			$sandbox->fault('order', 'answer', times => -1, status => 503, body => $page);
			meet('O-once', 'close_after_read');
			$change->('O-once', q{unknown_since = now() - interval '1 hour'});
			$sandbox->clear_faults;
			look_up_now('O-once');
			is(get('O-once', q{state || ' ' || absent}), 'unknown 1', 'after one lookup it is still unknown');
			look_up_now('O-once');
			settled('after another one it is sent again', 'O-once', 'accepted', 1);
		};

		subtest 'a doubt begins with the last send' => sub {
			$keep->('W-again');
			$change->('W-again', q{unknown_since = now() - interval '1 hour'});
			$sandbox->fault('createWithdrawal', 'close_after_read');
			is($decide->('refresh', 'W-again'), '', 'it is sent again');
			is(wait_state('W-again', 'unknown|review|accepted', 30), 'unknown', 'and in doubt');
			is(get('W-again', q{unknown_since > now() - interval '1 minute'}), 't', 'since then');
		};

		subtest 'a lookup counts from when it was asked for' => sub {
			set('tegro.timeout', q{'10s'});
			$sandbox->fault('order', 'answer', times => -1, status => 503, body => $page);
			meet('O-asked', 'close_after_read');
			$sandbox->clear_faults;
			$sandbox->fault('order', 'hold', ms => 6000);
			# three seconds more, and it could be sent again
			$change->('O-asked', q{absent = 1, unknown_since = now() - interval '12 s'});
			look_up_now('O-asked');
			is(get('O-asked', q{state || ' ' || absent}), 'unknown 2', 'it was asked for too early');
			set('tegro.timeout', q{'1s'});
		};

		ok(becomes_true(q{SELECT count(*) = 2 AND bool_and(ended_at IS NOT NULL) FROM tegro_event
			JOIN tegro_outbox ON id = outbox_id WHERE event = 'send' AND reference = 'W-twice'
			AND outcome IN ('refused', 'unknown')}), 'the first send was refused late, the other is in doubt');
		like(state_of('W-twice'), qr/^(?:unknown|review)$/, 'the refusal of an earlier send than the last counts for nothing');
		set('tegro.claim_timeout', q{'4s'});
	});


#
# 33: the provider says that it knows the number
#

story(
	'duplicates',
	sub {
		$sandbox->fault('createWithdrawal', 'hide', ms => 10_000);
		meet('W-hidden', 'execute_then_close');
		is(wait_state('W-hidden', 'review'), 'review', 'a payout that is not found waits for a person');
		$session->query(q{SELECT tegro_resolve(id, 'resend', 'he thinks so') FROM tegro_outbox});
		settled('a payout that the provider has already, so that it says', 'W-hidden', 'accepted', 1);
		is(scalar(sends_of('W-hidden')), 2, 'it was sent twice, as the person wanted');
		like(get('W-hidden', 'message'), qr/found by lookup/, 'and settled by a lookup');
		is(get('W-hidden', 'callback_state'), '', 'without a callback');

		# one of which nothing was in doubt: someone on the way has repeated it
		$sandbox->fault('createWithdrawal', 'answer', status => 200, executed => JSON::PP::true,
			body => '{"type":"error","desc":"Withdrawal already exists"}');
		ask('W-repeated');
		is(wait_state('W-repeated', 'accepted|refused'), 'accepted', 'a payout that the provider has already, though it was sent once');
		is(executed('W-repeated'), 1, 'is found');
	},
	faults => 'fault 33',
	arguments => [ '--deduplicate' ]);


#
# 35, and other refusals that a repeat mends, or does not
#

story(
	'refusals',
	sub {
		write_credentials(join(':', '*', '*', API_KEY, SECRET_KEY));
		# each in a shop of its own, since it is the shop that waits, and one after
		# the other, so that no repeat meets what is meant for the next
		my $date;
		my %retry_after = (
			seconds => sub { return 2; },
			date => sub {
				$date = int(time) + 4;
				return POSIX::strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime($date));
			},
			garbage => sub { return 'soon'; },
			negative => sub { return -5; },
			huge => sub { return 1_000_000_000; },
			none => undef);
		foreach my $shop (sort keys %retry_after)
		{
			my $value = $retry_after{$shop};

			$sandbox->fault('createOrder', 'answer', status => 429, body => $page,
				$value ? (headers => { 'Retry-After' => '' . $value->() }) : ());
			ask("O-$shop", shop_id => $shop);
			ok(becomes_true("SELECT count(ended_at) > 0 FROM tegro_event JOIN tegro_outbox ON id = outbox_id
				WHERE reference = 'O-$shop'"), "fault 35: $shop: 429 comes");
			next if $shop eq 'huge';
			ask('O-beside', shop_id => 'seconds') if $shop eq 'seconds';
			settled("fault 35: $shop: 429 and then an order", "O-$shop", 'accepted', 1);
			settled('an order beside', 'O-beside', 'accepted', 1) if $shop eq 'seconds';
		}
		# seconds from the refusal until it was sent again
		my $pause = sub {
			my ($reference) = @_;

			return get($reference, q{(SELECT extract(epoch FROM max(started_at) - min(ended_at))
				FROM tegro_event WHERE outbox_id = id AND event = 'send')});
		};
		cmp_ok($pause->('O-seconds'), '>', 1.9, 'fault 35: Retry-After in seconds is honoured');
		cmp_ok($pause->('O-seconds'), '<', 20, 'and not for longer');
		cmp_ok(get('O-date', q{(SELECT extract(epoch FROM max(started_at)) FROM tegro_event WHERE outbox_id = id AND event = 'send')}),
			'>=', $date, 'fault 35: a date is honoured');
		is(get('O-huge', q{state || ' ' || sqlstate}), 'ready TG005', 'fault 35: 429 leaves it ready');
		my $huge = get('O-huge', q{extract(epoch FROM next_at
			- (SELECT ended_at FROM tegro_event WHERE outbox_id = id AND event = 'send'))});
		cmp_ok($huge, '>', 3000, 'fault 35: a huge time is honoured');
		cmp_ok($huge, '<', 3700, 'fault 35: for an hour');
		cmp_ok($pause->("O-$_"), '<', 20, "fault 35: \"$_\" does not hold it up") foreach qw(garbage negative none);
		cmp_ok(
			$session->query(q{SELECT extract(epoch FROM max(b.started_at) - min(a.ended_at))
				FROM tegro_event a JOIN tegro_outbox o ON o.id = a.outbox_id AND o.reference = 'O-seconds',
				tegro_event b JOIN tegro_outbox p ON p.id = b.outbox_id AND p.reference = 'O-beside'})->{out},
			'>', 1.9, 'the shop waits with its other requests, too');

		# what says for itself that it is over for now
		$sandbox->fault('createOrder', 'answer', times => 2, status => 200,
			body => '{"type":"error","desc":"Temporary failure, try again"}');
		ask('O-temporary');
		settled('a refusal for now', 'O-temporary', 'accepted', 1);
		is(get('O-temporary', 'attempts'), 3, 'is sent again');
		$sandbox->fault('createOrder', 'answer', status => 200, body => '{"type":"error","desc":"Wrong currency"}');
		ask('O-wrong');
		settled('a refusal', 'O-wrong', 'refused', 0);
		is(get('O-wrong', q{attempts || ' ' || sqlstate}), '1 TG001', 'is final');
		$sandbox->fault('createOrder', 'answer', status => 200,
			body => '{"type":"error","desc":"' . '\u043d\u0435\u043b\u044c\u0437\u044f ' x 1000 . '"}');
		ask('O-long');
		settled('a refusal in very many words', 'O-long', 'refused', 0);
		like(get('O-long', 'left(message, 100)'), qr/нельзя/, 'is kept in its letters');

		set('tegro.max_attempts', q{'3'});
		$sandbox->fault('createOrder', 'answer', times => -1, status => 200,
			body => '{"type":"error","desc":"Temporary failure, try again"}');
		ask('O-hopeless');
		settled('a refusal for now, for ever', 'O-hopeless', 'refused', 0);
		is(get('O-hopeless', q{attempts || ' ' || sqlstate}), '3 TG001', 'is given up after tegro.max_attempts');
		$sandbox->clear_faults;
		$sandbox->fault('createOrder', 'answer', times => -1, status => 429, headers => { 'Retry-After' => '1' }, body => '');
		ask('O-limited', shop_id => 'limited');
		settled('fault 35: 429 for ever', 'O-limited', 'refused', 0);
		is(get('O-limited', q{attempts || ' ' || sqlstate}), '3 TG005', 'is given up, too');
		$sandbox->clear_faults;
		set('tegro.max_attempts', q{'20'});

		# Refusals that are none: it was executed, and what is said is not true.
		# A nonce of ours is new; "wrong" says that someone on the way sent the
		# request a second time.
		$sandbox->fault('createWithdrawal', 'answer', status => 200, executed => JSON::PP::true,
			body => '{"type":"error","desc":"Wrong nonce"}');
		ask('W-replayed');
		settled('a payout that someone on the way repeats, so that its nonce is refused', 'W-replayed', 'accepted', 1);
		$sandbox->fault('createWithdrawal', 'answer', status => 429, executed => JSON::PP::true, body => $success);
		ask('W-429', shop_id => 'contradiction');
		settled('a payout that is answered with 429 and success', 'W-429', 'accepted', 1);
		$sandbox->fault('createWithdrawal', 'answer', status => 403, executed => JSON::PP::true,
			body => '{"type":"error","desc":"This withdrawal was already authorized"}');
		ask('W-authorized');
		settled('a payout that the provider has already, and says so as if the key were wrong', 'W-authorized', 'accepted', 1);

		# One that is given up, after a send that took effect and can't be seen.
		set('tegro.max_attempts', q{'2'});
		$sandbox->fault('createOrder', 'hide', ms => 60_000);
		$sandbox->fault('createOrder', 'execute_then_close');
		$sandbox->fault('createOrder', 'answer', status => 429, body => '');
		ask('O-given-up', shop_id => 'doubt');
		settled('fault 35: 429, and no more attempts, after one in doubt', 'O-given-up', 'review', 1);
		like(get('O-given-up', 'message'), qr/an earlier attempt may have taken effect/, 'its message says why');
		set('tegro.max_attempts', q{'20'});

		# 34
		ask('W-before');
		settled('a payout', 'W-before', 'accepted', 1);
		$sandbox->fault('createWithdrawal', 'answer', status => 403, body => '<html>error code: 1010</html>');
		ask('W-403');
		is(wait_state('W-403', 'unknown'), 'unknown', 'fault 34: a gateway\'s 403 leaves it unknown');
		ask($_) foreach qw(W-paused O-paused);
		sleep 1.5;
		is(scalar(sends_of($_)), 0, "fault 34: $_ is not sent: the shop pauses") foreach qw(W-paused O-paused);
		is(scalar(look_ups_of('W-403')), 0, 'fault 34: nor is what is unknown looked up');
		like(slurp_file($node->logfile), qr/tegro delivery pauses for shop/, 'the log says so');
		$node->reload;
		settled('fault 34: after a reload, a payout', 'W-paused', 'accepted', 1);
		settled('fault 34: after a reload, an order', 'O-paused', 'accepted', 1);
		settled('after a reload, what the gateway stopped', 'W-403', 'review', 0);
	},
	arguments => [ map { ('--shop', "$_:" . API_KEY . ':x') } qw(seconds date garbage negative huge none limited contradiction doubt) ]);


#
# 43: keys
#

story(
	'keys',
	sub {
		my $good = join(':', SHOP_ID, '*', API_KEY, SECRET_KEY);
		my @others = map { "good-$_:*:key-$_:x" } 1 .. 3;

		# rotated while requests are in flight
		write_credentials($good, @others, 'bad:*:not-its-key:x');
		$sandbox->fault('createOrder', 'execute_then_hold', ms => 700, times => 10);
		ask("O-flight-$_") foreach 1 .. 10;
		becomes_true(q{SELECT count(*) = 10 FROM tegro_outbox WHERE state <> 'ready'});
		write_credentials($good =~ s/sandbox-api-key/old-key/r, @others, 'bad:*:not-its-key:x');
		settled('an order in flight while the key changes', "O-flight-$_", 'accepted', 1) foreach 1 .. 10;

		set('tegro.worker_idle_timeout', q{'1s'});
		ask($_) foreach qw(O-refused W-refused);
		ok(becomes_true(q{SELECT bool_or(sqlstate = 'TG001') FROM tegro_outbox WHERE state = 'ready'}),
			'with a wrong key, a request stays ready');
		ask("W-wait-$_") foreach 1 .. 20;
		# the others go on; one of them has always had a wrong key
		ask("O-bad-$_", shop_id => 'bad') foreach 1 .. 3;
		foreach my $shop (map { "good-$_" } 1 .. 3)
		{
			ask("O-$shop-$_", shop_id => $shop) foreach 1 .. 5;
		}
		ok(becomes_true(q{SELECT count(*) = 15 FROM tegro_outbox WHERE shop_id LIKE 'good%' AND state = 'accepted'}),
			'other shops go on meanwhile');
		ok(becomes_true(q{SELECT bool_or(sqlstate = 'TG001') FROM tegro_outbox WHERE shop_id = 'bad'}),
			'a shop whose key is wrong does not');
		sleep 5;
		my $shop = SHOP_ID;
		my @refused = grep { $_->{method} =~ /^create/ && $_->{params}{shop_id} eq $shop } $sandbox->journal;
		cmp_ok(scalar(@refused) - 10, '<=', 2, 'while a shop pauses, nothing is sent for it');
		is($session->query(q{SELECT count(*) FROM tegro_outbox WHERE state NOT IN ('ready', 'accepted')})->{out}, 0,
			'nothing failed for a wrong key');
		is($session->query(q{SELECT max(attempts) FROM tegro_outbox WHERE state = 'ready'})->{out}, 0,
			'and it counts as no attempt');

		# a file that can't be read is no reason to give anything up either
		chmod(0644, $credentials);
		$node->reload;
		ok(becomes_true(q{SELECT count(*) > 0 FROM tegro_outbox WHERE state = 'ready' AND sqlstate = 'TG006'}),
			'a credentials file that others can read is refused, and requests stay ready');
		chmod(0600, $credentials);
		my $from = time;
		write_credentials($good, @others, 'bad:*:key-bad:x');
		ok(becomes_true(q{SELECT count(*) = 50 FROM tegro_outbox WHERE state = 'accepted'}),
			'with the right keys, all are delivered');
		cmp_ok(own_ms($from), '<', 30_000, 'before long');
		set('tegro.worker_idle_timeout', q{'1min'});
		agree(shops => 1);
	},
	faults => 'fault 43',
	arguments => [ map { ('--shop', $_) } (map { "good-$_:key-$_:x" } 1 .. 3), 'bad:key-bad:x' ]);


#
# When requests are sent
#

story(
	'pace',
	sub {
		ask('O-first');
		settled('an order', 'O-first', 'accepted', 1);

		# the rate
		set('tegro.rate_limit', q{'20'});
		$session->query(q{SELECT tegro_enqueue('createOrder',
			jsonb_build_object('order_id', 'O-' || n, 'amount', 1, 'currency', 'RUB')) FROM generate_series(1, 60) n});
		ok(becomes_true(q{SELECT count(*) = 61 FROM tegro_outbox WHERE state = 'accepted'}), 'with tegro.rate_limit, all are sent');
		# when they were sent: they may pile up on their way
		my @times = split(/\n/, $session->query(q{SELECT extract(epoch FROM started_at) FROM tegro_event
			JOIN tegro_outbox ON id = outbox_id WHERE event = 'send' AND reference ~ '^O-\d+$' ORDER BY 1})->{out});
		is(scalar(@times), 60, 'each once');
		my $most = 0;
		for (my ($i, $j) = (0, 0); $j < @times; $j++)
		{
			$i++ while $times[$j] - $times[$i] > 1;
			$most = $j - $i + 1 if $j - $i + 1 > $most;
		}
		# those that were saved up may come on top
		cmp_ok($most, '<=', 24, 'not more than the limit in any second');
		cmp_ok(own_ms($times[0], $times[-1]), '<', 6000, 'and not much less');
		set('tegro.rate_limit', q{'0'});

		# later
		my $due = time + 2;
		$session->query(qq{SELECT tegro_enqueue('createOrder', '{"order_id": "O-later", "amount": 1, "currency": "RUB"}',
			deliver_after => to_timestamp($due))});
		$session->query(qq{SELECT tegro_enqueue('createOrder', '{"order_id": "O-past", "amount": 1, "currency": "RUB"}',
			deliver_after => '2020-01-01')});
		settled('an order for earlier', 'O-past', 'accepted', 1);
		settled('an order for later', 'O-later', 'accepted', 1);
		my ($sent) = sends_of('O-later');
		cmp_ok($sent->{time}, '>=', $due, 'is not sent before its time');
		cmp_ok(own_ms($due, $sent->{time}), '<', 3000, 'and not long after it');

		# what certainly was not sent
		my $url = $sandbox->api_url;
		set_server($node, { 'tegro.api_url' => 'http://127.0.0.1:9/api' }, $session);
		$session->query(q{SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
			WHERE backend_type = 'tegro delivery worker' AND datname = current_database()});
		ask($_) foreach qw(W-unsent O-unsent);
		ok(becomes_true(q{SELECT count(*) = 2 FROM tegro_outbox WHERE state = 'ready' AND sqlstate = 'TG002' AND failures > 1}),
			'while the provider can not be reached, requests wait');
		is($session->query(q{SELECT max(attempts) FROM tegro_outbox WHERE state = 'ready'})->{out}, 0,
			'that counts as no attempt');
		is($session->query(q{SELECT DISTINCT outcome FROM tegro_event a JOIN tegro_outbox o ON o.id = outbox_id
			WHERE o.state = 'ready'})->{out}, 'not sent', 'though it is on record');
		set_server($node, { 'tegro.api_url' => $url }, $session);
		$session->query(q{SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
			WHERE backend_type = 'tegro delivery worker' AND datname = current_database()});
		# they were for another provider
		ok(becomes_true(q{SELECT count(*) = 2 FROM tegro_outbox WHERE aside = 'origin'}), 'at the right address, they are set aside');
		is($session->query(q{SELECT tegro_take_over('the address was wrong')})->{sqlstate}, '', 'until they are taken over');
		settled('then', 'O-unsent', 'accepted', 1);
		settled('what a person decides about', 'W-unsent', 'review', 0);
		agree();
	});


#
# What is sent again
#

story(
	'again',
	sub {
		meet('O-lost', 'close_after_read');
		meet('W-lost', 'close_after_read');
		meet('W-later', 'execute_later', ms => 2000);

		# an order: after two lookups, the second after its request must have ended
		settled('an order that never arrived', 'O-lost', 'accepted', 1);
		my @sends = map { $_->{time} } sends_of('O-lost');
		my @look_ups = map { $_->{time} } look_ups_of('O-lost');
		is(scalar(@sends), 2, 'it was sent twice');
		is(scalar(@look_ups), 2, 'after two lookups');
		cmp_ok($look_ups[1] - $sends[0], '>=', 6, 'the second not before tegro.timeout and 5 s');
		cmp_ok($sends[1], '>', $look_ups[1], 'and not before it');
		isnt((sends_of('O-lost'))[0]{nonce}, (sends_of('O-lost'))[1]{nonce}, 'with another nonce');

		# a payout: never
		settled('a payout that never arrived', 'W-lost', 'review', 0);
		settled('one that is executed within the settle time', 'W-later', 'accepted', 1);
		@sends = map { $_->{time} } sends_of('W-lost');
		@look_ups = map { $_->{time} } look_ups_of('W-lost');
		is(scalar(@sends), 1, 'the former was sent once');
		cmp_ok(scalar(@look_ups), '>=', 3, 'and looked up three times');
		cmp_ok($look_ups[2] - $sends[0], '>=', 3, 'the third time after the settle time');
		is(scalar(sends_of('W-later')), 1, 'the latter was sent once, too');

		# a lookup that fails in between
		$sandbox->fault('order', 'answer', skip => 1, status => 502, body => $page);
		meet('O-between', 'close_after_read');

		# The shop's own number as a number: the provider reads 7.00 as 7, and
		# that is what it must be asked for.
		$sandbox->fault('createWithdrawal', 'execute_then_close');
		$session->query(q{SELECT tegro_enqueue('createWithdrawal',
			'{"payment_id": 7.00, "amount": 1, "currency": "RUB", "account": "1"}')});
		ok(becomes_true(q{SELECT state IN ('accepted', 'refused', 'review') FROM tegro_outbox WHERE reference LIKE '7%'}),
			'a payout whose number is 7.00 ends');
		my @sent = grep { $_->{method} eq 'createWithdrawal' && $_->{params}{payment_id} =~ /^7/ } $sandbox->journal(executed => 1);
		is(scalar(@sent), 1, 'it is found, though the provider has it as 7, and so is executed once');
		my $result = $session->query(q{SELECT tegro_enqueue('createWithdrawal',
			'{"payment_id": 7, "amount": 1, "currency": "RUB", "account": "1"}')
			= (SELECT id FROM tegro_outbox WHERE reference LIKE '7%')});
		is($result->{out}, 't', '7 is the same payout');

		settled('an order that never arrived, with a lookup that fails between', 'O-between', 'accepted', 1);
		is(scalar(look_ups_of('O-between')), 3, 'takes one lookup more');
	});


#
# Rows that someone holds
#

story(
	'locks',
	sub {
		my $person = session($node, database => $database);

		ask('O-first');
		settled('an order', 'O-first', 'accepted', 1);

		# one that waits
		$session->query(q{SELECT tegro_enqueue('createOrder', '{"order_id": "O-held", "amount": 1, "currency": "RUB"}',
			deliver_after => clock_timestamp() + interval '4 s')});
		$person->query(q{BEGIN; SELECT FROM tegro_outbox WHERE reference = 'O-held' FOR UPDATE});
		sleep 4.1;
		ask("O-$_") foreach 1 .. 20;
		ok(becomes_true(q{SELECT count(*) = 20 FROM tegro_outbox WHERE reference ~ '^O-\d+$' AND state = 'accepted'}),
			'while a person holds a row that is ready, the others are delivered');
		$person->query('COMMIT');
		query($node, 'CALL tegro_deliver()', database => $database);
		settled('then the one that was held', 'O-held', 'accepted', 1);

		# one that is on its way, so that its outcome can't be written
		set('tegro.claim_timeout', q{'40s'});
		set('tegro.timeout', q{'20s'});
		$sandbox->fault('createWithdrawal', 'hold', ms => 4000);
		ask('W-held');
		is(wait_state('W-held', 'sending'), 'sending', 'a payout is on its way');
		$person->query(q{BEGIN; SELECT FROM tegro_outbox WHERE reference = 'W-held' FOR UPDATE});
		ok(wait_until(sub { return scalar(grep { $_->{deferred} } $sandbox->journal(method => 'createWithdrawal')) }),
			'it is answered');
		sleep 0.5;
		my $from = time;
		$session->query(q{SELECT tegro_enqueue('createWithdrawal', jsonb_build_object('payment_id', 'W-' || n,
			'amount', 1, 'currency', 'RUB', 'account', '1')) FROM generate_series(1, 20) n});
		ok(becomes_true(q{SELECT count(*) = 20 FROM tegro_outbox WHERE reference ~ '^W-\d+$' AND state = 'accepted'}),
			'while a person holds a row that is on its way, the others are delivered');
		cmp_ok(own_ms($from), '<', 10_000, 'before long');
		is(state_of('W-held'), 'sending', 'the one that is held is left as it is');
		$person->query('COMMIT');
		settled('then the one that was held', 'W-held', 'accepted', 1);
		settled('the others', "W-$_", 'accepted', 1) foreach 1, 20;
		set('tegro.timeout', q{'1s'});
		set('tegro.claim_timeout', q{'4s'});

		# the whole table
		$person->query(q{BEGIN; LOCK tegro_outbox IN SHARE MODE});
		sleep 3;
		$person->query('COMMIT');
		ask('O-last');
		settled('after a lock on the whole table, an order', 'O-last', 'accepted', 1);
		$person->close;
		agree();
	});


#
# Callbacks
#

# Creates a role, with a schema of its own, which may enqueue and write calls.
sub create_role
{
	my ($role) = @_;

	$session->query($_) foreach split(/;\n/, <<"END");
CREATE ROLE $role;
CREATE SCHEMA $role AUTHORIZATION $role;
GRANT EXECUTE ON FUNCTION tegro_enqueue(text, jsonb, regprocedure, timestamptz), tegro_balance(), tegro_retry(bigint) TO $role;
GRANT SELECT ON tegro_outbox TO $role;
CREATE TABLE $role.calls (n serial, state text, reference text, who text, answer jsonb);
ALTER TABLE $role.calls OWNER TO $role
END
	return;
}

# Enqueues an order of a role, with a callback made of the text of a PL/pgSQL
# function.
sub ask_back
{
	my ($role, $reference, $text) = @_;
	my $name = lc($reference =~ s/\W/_/gr);

	$session->query("SET ROLE $role");
	my $result = $session->query(<<"END");
CREATE FUNCTION $role.$name(id bigint, state text, reference text, answer jsonb) RETURNS void
LANGUAGE plpgsql AS \$f\$ $text \$f\$
END
	die $result->{err} if $result->{sqlstate};
	$result = $session->query("SELECT tegro_enqueue('createOrder',
		'{\"order_id\": \"$reference\", \"amount\": 1, \"currency\": \"RUB\"}', '$role.$name'::regproc)");
	die $result->{err} if $result->{sqlstate};
	$session->query('RESET ROLE');
	return;
}

story(
	'callbacks',
	sub {
		my $role = 'tegro_test_shop';
		my $note = "INSERT INTO $role.calls (state, reference, who, answer) VALUES (state, reference, current_user, answer)";
		my %refused = (
			'O-set-role' => [ 'SET ROLE NONE;', qr/security-restricted/ ],
			'O-reset-role' => [ 'RESET ROLE;', qr/security-restricted/ ],
			'O-set-config' => [ q{PERFORM set_config('role', 'none', true);}, qr/security-restricted/ ],
			'O-session' => [ 'SET SESSION AUTHORIZATION DEFAULT;', qr/security-restricted/ ],
			'O-temporary' => [ 'CREATE TEMP TABLE t (a int);', qr/security-restricted/ ],
			'O-catalog' => [ 'CREATE FUNCTION pg_catalog.f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;', qr/permission denied/ ],
			'O-outbox' => [ q{UPDATE tegro_outbox SET state = 'accepted';}, qr/does not exist/ ],
			'O-public' => [ q{UPDATE public.tegro_outbox SET state = 'accepted';}, qr/permission denied/ ],
			'O-file' => [ q{PERFORM pg_read_file('PG_VERSION');}, qr/permission denied/ ],
			'O-terminate' => [ 'PERFORM pg_terminate_backend(pg_backend_pid());', qr/must be a superuser|permission denied/ ],
			'O-commit' => [ 'COMMIT;', qr/invalid transaction termination/ ],
			'O-raise' => [ q{RAISE EXCEPTION 'not %', 'today';}, qr/not today/ ],
			'O-long' => [ q{RAISE EXCEPTION '%', repeat('long ', 1000000);}, qr/long long/ ],
			'O-reference' => [ qq{INSERT INTO $role.line VALUES (1, 2);}, qr/foreign key|security-restricted/ ],
			'O-deferred' => [ qq{SET CONSTRAINTS ALL DEFERRED; INSERT INTO $role.line VALUES (1, 3);},
				qr/foreign key|security-restricted/ ],
			'O-order' => [ qq{INSERT INTO $role.line VALUES (1, 4); INSERT INTO $role.head VALUES (4);},
				qr/foreign key/ ]);

		create_role($role);
		create_role('tegro_test_other');
		$session->query($_) foreach split(/;\n/, <<"END");
CREATE TABLE $role.head (id int PRIMARY KEY);
CREATE TABLE $role.line (id int, head int REFERENCES $role.head DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE $role.head OWNER TO $role;
ALTER TABLE $role.line OWNER TO $role
END
		ask_back($role, 'O-plain', "BEGIN $note; END");
		settled('an order', 'O-plain', 'accepted', 1);
		ok(becomes_true(q{SELECT callback_state = 'done' FROM tegro_outbox WHERE reference = 'O-plain'}), 'is called back');
		is($session->query("SELECT state, reference, who, answer ->> 'type' FROM $role.calls")->{out},
			"accepted|O-plain|$role|success", 'with the outcome, as the role that enqueued it');
		my $worker = worker();

		# what it must not do
		ask_back($role, $_, "BEGIN $refused{$_}[0] END") foreach sort keys %refused;
		foreach my $reference (sort keys %refused)
		{
			ok(becomes_true("SELECT callback_message IS NOT NULL FROM tegro_outbox WHERE reference = '$reference'"),
				"a callback that says $refused{$reference}[0]: it fails");
			like(get($reference, 'left(callback_message, 1000)'), $refused{$reference}[1], 'for that reason');
			is(state_of($reference), 'accepted', 'and the outcome stands');
		}
		is(get('O-long', 'octet_length(callback_message)'), 1000, 'of a long reason, the beginning is kept');
		like(get('O-outbox', 'callback_message'), qr/ \(a callback's search_path is pg_catalog, pg_temp\)$/,
			'a name that it does not find may have no schema');
		is(worker(), $worker, 'it is still the same worker');
		is($session->query("SELECT count(*) FROM $role.line")->{out}, 0, 'what a deferred constraint forbids is not there');

		# what it leaves behind
		$session->query("GRANT SET ON PARAMETER tegro.api_key TO $role");
		ask_back($role, 'O-settings', q{BEGIN
			SET tegro.api_key = 'stolen';
			PERFORM set_config('tegro.timeout', '1ms', false);
			PERFORM set_config('lock_timeout', '1d', false);
			SET search_path = tegro_test_shop;
			SET synchronous_commit = off;
			END});
		ask_back($role, 'O-lock', 'BEGIN PERFORM pg_advisory_lock(4711); END');
		ask_back($role, 'O-drops-itself', "BEGIN $note; DROP FUNCTION $role.o_drops_itself; END");
		# a deferred constraint is immediate here, and no obstacle
		ask_back($role, 'O-satisfies', "BEGIN INSERT INTO $role.head VALUES (1);
			INSERT INTO $role.line VALUES (1, 1); DELETE FROM $role.line; END");
		ask_back($role, 'O-asks', q{BEGIN
			PERFORM public.tegro_enqueue('createOrder', '{"order_id": "O-asked", "amount": 1, "currency": "RUB"}'); END});
		ask_back($role, 'O-calls', "BEGIN answer := public.tegro_balance(); $note; END");
		ask_back($role, 'O-sees', "BEGIN answer := (SELECT to_jsonb(count(*)) FROM public.tegro_outbox
			WHERE enqueued_by <> '$role'::regrole); $note; END");
		ask_back('tegro_test_other', 'O-unseen', 'BEGIN END');
		foreach my $reference (qw(O-settings O-lock O-drops-itself O-satisfies O-asks O-calls O-sees))
		{
			ok(becomes_true("SELECT callback_state = 'done' FROM tegro_outbox WHERE reference = '$reference'"), "$reference is called back")
			  or diag(get($reference, 'callback_message'));
		}
		$session->query("REVOKE SET ON PARAMETER tegro.api_key FROM $role");
		settled('what a callback enqueues', 'O-asked', 'accepted', 1);
		is(get('O-asked', 'enqueued_by_name'), $role, 'as the role that it runs as');
		is($session->query("SELECT answer FROM $role.calls WHERE reference = 'O-sees'")->{out}, 0,
			'a callback sees the requests of its role only');
		is($session->query("SELECT answer ->> 'type' FROM $role.calls WHERE reference = 'O-calls'")->{out}, 'success',
			'a callback may call');
		is($session->query('SELECT pg_try_advisory_lock(4711)')->{out}, 't',
			'a lock that a callback took for the session is free again');

		# what is taken from it: the callback itself, the right to call it, the role
		foreach my $what ('function', 'right', 'role')
		{
			my $owner = $what eq 'role' ? 'tegro_test_other' : $role;

			$session->query("SET ROLE $owner");
			$session->query("CREATE FUNCTION $owner.gone_$what(id bigint, state text, reference text, answer jsonb)
				RETURNS void LANGUAGE sql AS 'SELECT'");
			$session->query("SELECT tegro_enqueue('createOrder',
				'{\"order_id\": \"O-gone-$what\", \"amount\": 1, \"currency\": \"RUB\"}', '$owner.gone_$what'::regproc,
				clock_timestamp() + interval '1 day')");
			$session->query('RESET ROLE');
		}
		$session->query("DROP FUNCTION $role.gone_function");
		$session->query("ALTER FUNCTION $role.gone_right OWNER TO CURRENT_USER");
		$session->query("REVOKE EXECUTE ON FUNCTION $role.gone_right FROM PUBLIC, $role");
		$session->query('REASSIGN OWNED BY tegro_test_other TO CURRENT_USER');
		$session->query('DROP OWNED BY tegro_test_other');
		is($session->query('DROP ROLE tegro_test_other')->{err}, '', 'a role whose request waits can be dropped');
		$session->query(q{UPDATE tegro_outbox SET next_at = clock_timestamp() WHERE reference LIKE 'O-gone-%'});
		ask('O-now');
		foreach my $what ('function', 'right', 'role')
		{
			ok(becomes_true("SELECT callback_message IS NOT NULL FROM tegro_outbox WHERE reference = 'O-gone-$what'"),
				"a callback fails whose $what is gone");
			is(state_of("O-gone-$what"), 'accepted', 'and the outcome stands');
		}

		# after that
		ask_back($role, 'O-after', "BEGIN $note; END");
		settled('then an order', 'O-after', 'accepted', 1);
		ok(becomes_true(q{SELECT callback_state = 'done' FROM tegro_outbox WHERE reference = 'O-after'}), 'is called back');
		is(worker(), $worker, 'by the same worker');

		# given up
		$session->query(q{UPDATE tegro_outbox SET failures = 19, callback_at = now() WHERE reference = 'O-raise'});
		ask('O-wake');
		ok(becomes_true(q{SELECT callback_state = 'failed' AND callback_at IS NULL FROM tegro_outbox WHERE reference = 'O-raise'}),
			'a callback that failed twenty times is given up');

		# slow ones
		ask_back($role, 'O-slow', 'BEGIN PERFORM pg_sleep(600); END');
		becomes_true(q{SELECT state = 'accepted' FROM tegro_outbox WHERE reference = 'O-slow'});
		sleep 0.5;
		my $from = time;
		ask('O-behind');
		settled('an order behind a callback that hangs', 'O-behind', 'accepted', 1);
		cmp_ok(own_ms($from), '<', 3000, 'does not wait for it');
		ok(becomes_true(q{SELECT callback_message = 'the callback did not return within 5 s' FROM tegro_outbox WHERE reference = 'O-slow'}),
			'which fails when its time is over');
		$session->query("DROP FUNCTION $role.o_slow");
		$session->query(q{UPDATE tegro_outbox SET callback_at = NULL WHERE reference LIKE 'O-%'});
		agree();
	});
$node->safe_psql('postgres', "DROP ROLE IF EXISTS $_") foreach qw(tegro_test_shop tegro_test_other);

# Callbacks that mean harm: one each in a database of its own, for it may be
# that the worker does not survive it.
my %harm = (
	'stubborn' => [
		'a callback that goes on after its time limit',
		'BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END' ],
	'nested' => [
		'a callback whose deferred trigger defers another',
		'BEGIN INSERT INTO tegro_test_harm.trap VALUES (1); END' ]);

foreach my $harm (sort keys %harm)
{
	story(
		"callback $harm",
		sub {
			my $role = 'tegro_test_harm';

			create_role($role);
			$session->query($_) foreach split(/;\n/, <<"END");
CREATE TABLE $role.head (id int PRIMARY KEY);
CREATE TABLE $role.line (id int, head int REFERENCES $role.head DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE $role.trap (id int);
CREATE FUNCTION $role.spring() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
	SET CONSTRAINTS ALL DEFERRED; INSERT INTO $role.line VALUES (1, 1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER spring AFTER INSERT ON $role.trap DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION $role.spring();
ALTER TABLE $role.head OWNER TO $role;
ALTER TABLE $role.line OWNER TO $role;
ALTER TABLE $role.trap OWNER TO $role
END
			ask('O-first');
			settled('an order', 'O-first', 'accepted', 1);
			my $worker = worker();
			ask_back($role, 'O-harm', $harm{$harm}[1]);
			becomes_true(q{SELECT state = 'accepted' FROM tegro_outbox WHERE reference = 'O-harm'});
			sleep 0.5;
			my $from = time;
			ask('W-behind');
			is(wait_state('W-behind', 'accepted'), 'accepted', "$harm{$harm}[0] does not hold up others");
			cmp_ok(own_ms($from), '<', 3000, 'for any time');
			is(worker(), $worker, 'and does not end the worker');
			ok(becomes_true(q{SELECT callback_message IS NOT NULL FROM tegro_outbox WHERE reference = 'O-harm'}),
				'its error is on record');
			ok(becomes_true(q{SELECT failures >= 2 FROM tegro_outbox WHERE reference = 'O-harm'}),
				'and its calls are counted');
			# what a shutdown would do
			my $ended = $session->query(q{SELECT bool_and(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
				WHERE backend_type ~ '^tegro (delivery|callback) worker$' AND datname = current_database()})->{out};
			is($ended, 't', 'the workers end when they are told to');
			ask_back($role, 'O-after', 'BEGIN END');
			ok(becomes_true(q{SELECT callback_state = 'done' FROM tegro_outbox WHERE reference = 'O-after'}),
				'and then others are called back');
			$session->query("DROP OWNED BY $role CASCADE; DROP ROLE $role");
		});
}


#
# 40: a database of another encoding
#

story(
	'latin1',
	sub {
		my $cyrillic = '{"type":"success","desc":"","data":{"id":1,"note":"\u043f\u0440\u0438\u0432\u0435\u0442"}}';

		$sandbox->fault('createOrder', 'answer', status => 200, body => $cyrillic, executed => JSON::PP::true);
		ask('O-answer');
		$sandbox->fault('createWithdrawal', 'answer', status => 200, body => $cyrillic, executed => JSON::PP::true);
		$sandbox->fault('withdrawal', 'answer', times => -1, status => 200, body => $cyrillic);
		ask('W-answer');
		$sandbox->fault('createOrder', 'answer', status => 200, body => '{"type":"error","desc":"\u043d\u0435\u0442"}');
		ask('O-refused');
		ask("O-$_") foreach 1 .. 5;
		settled('beside answers that the database can not hold, an order', "O-$_", 'accepted', 1) foreach 1 .. 5;
		settled('an order whose answer it can not hold', 'O-answer', 'accepted', 1);
		is(wait_state('W-answer', 'unknown'), 'unknown', 'a payout of which lookups say nothing else stays unknown');
		like(get('W-answer', 'message'), qr/lookup failed/, 'and says why');
		is(executed('W-answer'), 1, 'it is not sent again');
		like(wait_state('O-refused', 'unknown|accepted|refused'), qr/unknown|accepted|refused/, 'a refusal that it can not hold leaves it somewhere');
		$sandbox->clear_faults;
		$session->query(q{SELECT tegro_refresh(id) FROM tegro_outbox WHERE state = 'unknown'});
		settled('then', 'W-answer', 'accepted', 1);
		$session->query(q{SELECT tegro_enqueue('createOrder', convert_from('\x7b226f726465725f6964223a20224f2de9222c2022616d6f756e74223a20312c202263757272656e6379223a2022525542227d', 'LATIN1')::jsonb)});
		ok(becomes_true(q{SELECT state = 'accepted' FROM tegro_outbox WHERE reference = convert_from('\x4f2de9', 'LATIN1')}),
			'a number with a letter of that encoding is delivered');
		settled('a refusal that the database can not hold', 'O-refused', 'accepted', 1);
		agree();
	},
	faults => 'fault 40',
	like => q{TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'});


#
# 44: a snapshot held over a backlog
#

story(
	'snapshot',
	sub {
		my $rows = LONG ? 100_000 : 10_000;
		my $turn = 0;
		# entries of the index of what is due, by which delivery workers find it
		my $entries = sub {
			# a session reports what it has read once a second, if it does anything
			sleep 1.1;
			my $name = 'O-report-' . ++$turn;
			ask($name);
			becomes_true("SELECT state = 'accepted' FROM tegro_outbox WHERE reference = '$name'");
			return $session->query(q{SELECT idx_tup_read FROM pg_stat_user_indexes
				WHERE indexrelname = 'tegro_outbox_due'})->{out};
		};
		# how many of them are read for a request
		my $deliver = sub {
			my ($how) = @_;
			my $name = 'O-' . ++$turn;
			my $before = $entries->();

			$session->query(qq{SELECT count(tegro_enqueue('createOrder', jsonb_build_object('order_id',
				'$name-' || n, 'amount', 1, 'currency', 'RUB'))) FROM generate_series(1, $rows) n});
			my $from = time;
			# by another index, until there is little left
			becomes_true("SELECT next_at IS NULL FROM tegro_outbox WHERE reference = '$name-$rows'", 300);
			ok(becomes_true(q{SELECT NOT EXISTS (SELECT FROM tegro_outbox WHERE next_at IS NOT NULL)}),
				"a backlog of $rows is delivered, $how");
			my $rate = $rows / (time - $from);
			my %times;
			$times{ $_->{params}{order_id} }++
			  foreach grep { ($_->{params}{order_id} // '') =~ /^$name-/ } $sandbox->journal(executed => 1);
			is(join(' ', scalar(keys %times), scalar(grep { $_ != 1 } values %times)), "$rows 0", 'each once');
			my $read = ($entries->() - $before) / $rows;
			diag(sprintf('%s: %.0f requests/s, %.1f entries of the index read for each', $how, $rate, $read));
			return $read;
		};

		my $without = $deliver->('without a snapshot');
		cmp_ok($without, '>', 1, 'each was found in the index');
		my $reader = session($node, database => $database);
		my $from = time;
		$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tegro_outbox');
		foreach my $how ('with a snapshot held', LONG ? 'with one held for half an hour' : ())
		{
			# each claim begun at the front would read half of the backlog, for 32
			cmp_ok($deliver->($how), '<', 30, 'claims do not pass over what was delivered');
			sleep 1800 + $from - time if LONG && time < $from + 1800;
		}
		$reader->close;
	},
	faults => 'fault 44');

$node->stop;


#
# 42: a clock that is set
#

# in a server of its own, whose clock this sets
unless (defined $ENV{TEGRO_ONLY} && 'clock' !~ /$ENV{TEGRO_ONLY}/)
{
	$node = outbox_cluster('clock', sandbox(),
		kill_points => 0, environment => { preload_clock() });
}

story(
	'clock',
	sub {
		foreach my $hours (1, -1)
		{
			my $step = $hours > 0 ? 'forward' : 'back';

			# while it is on its way
			set_clock(0);
			$sandbox->fault('createWithdrawal', 'execute_then_hold', ms => 600, times => 3);
			ask("W-$step-$_") foreach 1 .. 3;
			becomes_true(qq{SELECT count(*) = 3 FROM tegro_outbox WHERE reference LIKE 'W-$step-%' AND state <> 'ready'});
			set_clock(3600 * $hours);
			# someone else, who sees the lease's end by the clock
			query($node, 'CALL tegro_deliver()', database => $database);
			settled("a payout that is on its way while the clock goes $step an hour", "W-$step-$_", 'accepted', 1) foreach 1 .. 3;
			is(scalar(sends_of("W-$step-1")), 1, 'it was sent once');

			# new ones, at once
			my $from = time;
			ask("O-$step-after");
			settled("an order after that", "O-$step-after", 'accepted', 1);
			cmp_ok(own_ms($from), '<', 5000, 'at once');

			# one that is looked up when the clock is set
			set_clock(0);
			meet("W-$step-lost", 'close_after_read');
			meet("O-$step-lost", 'close_after_read');
			set_clock(3600 * $hours);
			if ($hours > 0)
			{
				settled('a payout that is looked up meanwhile', "W-$step-lost", 'review', 0);
				settled('an order that is looked up meanwhile', "O-$step-lost", 'accepted', 1);
			}
			else
			{
				sleep 1;
				set_clock(0);
				# else the worker would look again in a minute
				ask('O-wake');
				settled('a payout that is looked up meanwhile', "W-$step-lost", 'review', 0);
				settled('an order that is looked up meanwhile', "O-$step-lost", 'accepted', 1);
			}
		}
		set_clock(0);
		agree();

		# the settle time is the provider's, and no clock that people set can
		# shorten it
		set('tegro.review_after', q{'8s'});
		my $from = time;
		meet('W-settle', 'execute_later', ms => 5000);
		becomes_true(q{SELECT absent >= 1 FROM tegro_outbox WHERE reference = 'W-settle'});
		set_clock(3600);
		ask('O-waken');
		is(wait_state('W-settle', 'accepted|review'), 'accepted', 'a payout that is not found while the clock goes forward is no case for a person');
		sleep 0.1 while time < $from + 6;
		is(executed('W-settle'), 1, 'it is executed once, though it was not to be seen at first');
		is(scalar(sends_of('W-settle')), 1, 'and sent once');
		set_clock(0);
	},
	faults => 'fault 42');
$node->stop if $node->name eq 'clock';

done_testing();
