# 110_property.pl: what must hold of every request, whatever happens to it.
#
# A generator draws steps by lot: requests, faults of the provider, decisions of
# operators, the end of the worker, time that passes.  The real worker meets
# them, many requests at once.  What has become of each request is then held
# against two things: the table of transitions, which is read from
# src/outbox/transition.c, and an oracle, which knows the steps and the sandbox's
# journal, and nothing of how the outbox decides.
#
# The steps follow from a seed, which is printed:
#
#	TEGRO_PROPERTY_SEED=N    the steps of that run
#	TEGRO_PROPERTY_STEPS=N   how many (10,000; the long version has 100,000)
#
# The same seed gives the same steps, not the same timing: which request meets
# which fault, and which of several that fit an operator takes, depends on the
# machine.  A seed that failed may have to be repeated a few times.
#
# Deadlines are nearer than they seem: some steps move the clock by which the
# worker judges how long a request has been in doubt (tegro_clock, in builds with
# injection points).  When it looks at a request next is by the real clock.
#
# The oracle, for each request:
#
#	a	What came to the provider is the send of one event, and came once.
#	b	A payout that may have left is sent again only after a person said so.
#		So it is executed at most once more than persons have had it sent.
#	c	What was committed is on record, as it was asked for.
#	d	"accepted" was executed, or a person says so.
#	e	"refused" was not executed, or a person says so.
#	f	"cancelled" was not executed before, or a person had it sent again; an
#		order may have been hidden until it was taken for unsent.
#	g	The provider's success counts: what it answers last is "accepted".
#	h	Once the provider behaves, nothing is ready, sending or unknown for
#		ever; and what is in review, and can be found, is found.
#	i	What operators did is on record, once each, and nothing else of theirs.
#
# A provider that refuses what it has executed is believed: nothing else can be
# done.  Some of the refusals drawn by lot are such lies; the journal tells which,
# and e and f leave them out.  Rows that the sandbox has without a request
# ("pushed N") may be found in place of a request's own; d leaves these out.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Digest::SHA;
use JSON::PP;
use Test::More;
use Time::HiRes qw(sleep time);

use TegroTest;
use TegroOutbox;

use constant STEPS => $ENV{TEGRO_PROPERTY_STEPS} || (LONG ? 100_000 : 10_000);
# Steps that are taken at once, and after how many all comes to rest.
use constant BATCH => 80;
use constant ROUND => 5_000;
# Sessions of operators, and those that wait for payouts.
use constant OPERATORS => 3;
use constant PAYERS => 4;
# Offenders of a kind that are shown.
use constant SHOWN => 3;
use constant MAX_ATTEMPTS => 4;

my $seed = $ENV{TEGRO_PROPERTY_SEED} // int(time * 1000) % 1_000_000;
my $begun = time;
note("TEGRO_PROPERTY_SEED=$seed TEGRO_PROPERTY_STEPS=@{[STEPS]}");

sub any_of { return $_[ rand @_ ]; }
sub chance { return rand() < $_[0]; }
sub between { return int($_[0] + rand($_[1] - $_[0] + 1)); }

# One of several, by weight: name => weight, ...
sub weighted
{
	my @choices = @_;
	my $sum = 0;

	for (my $i = 1; $i < @choices; $i += 2) { $sum += $choices[$i]; }
	my $drawn = rand $sum;
	for (my $i = 0; $i < @choices; $i += 2)
	{
		return $choices[$i] if ($drawn -= $choices[ $i + 1 ]) < 0;
	}
	return $choices[-2];
}


#
# The table of transitions
#

my (@arrows, %event_names);

{
	my $source = TegroTest::slurp("$FindBin::RealBin/../src/outbox/transition.c");

	while ($source =~ /^\t\{(\w+),\s*TEGRO_EVENT_(\w+),\s*(\w+),\s*([\w| ]+?),\s*([\w| ]+?)\},$/mg)
	{
		my ($from, $event, $to, $for, $with) = ($1, $2, $3, $4, $5);

		$for =~ s/TEGRO_FOR_//g;
		push @arrows, {
			from => lc $from,
			event => $event,
			to => lc $to,
			for => { map { ($_ => 1) } $for =~ /\w+/g },
			with => { map { ($_ => 1) } $with =~ /[A-Z]+/g }
		};
	}
	$event_names{$1} = $2 while $source =~ /\[TEGRO_EVENT_(\w+)\] = "([^"]*)"/g;
	my ($rows) = $source =~ /TegroTransition transitions\[\] = \{(.*?)^\};/ms;
	my $count = () = $rows =~ /TEGRO_EVENT_/g;
	die 'the table of transitions could not be read' unless @arrows > 50 && @arrows == $count;
}

# The arrows from a state by one of some events, for a request of that kind.
sub arrows_from
{
	my ($state, $method, $is_doubtful, @events) = @_;
	my %wanted = map { ($_ => 1) } @events;

	return grep {
		my $for = $_->{for};
		my $is_payout = $method eq 'createWithdrawal';

		$_->{from} eq $state && $wanted{ $_->{event} }
		  && ($for->{ALL} || $for->{CERTAIN} || $for->{DOUBTED} || $for->{ $is_payout ? 'PAYOUTS' : 'ORDERS' })
		  && !($for->{CERTAIN} && $is_doubtful) && !($for->{DOUBTED} && !$is_doubtful)
	} @arrows;
}


#
# The steps
#

# Texts of refusals.  Those of the first kinds have settings for them.
my %refusals = (
	duplicate => [ 'Duplicate payment_id', 'Заказ уже существует', 'This number was used already' ],
	unauthorized => [ 'Wrong authorization token', 'Not authorized' ],
	not_now => [ 'Wrong nonce', 'Please try again later', 'Повторите попытку позже' ],
	final => [ 'Insufficient funds', 'Wrong amount', 'Неверный счёт', 'Order not found', '' ]);

sub kind_of_refusal
{
	my ($message) = @_;

	return 'duplicate' if $message =~ /duplicate|already|exists|уже /i;
	return 'unauthorized' if $message =~ /uthoriz/;
	return 'not_now' if $message =~ /nonce|try again|повторите/i;
	return 'final';
}

my @shops = (SHOP_ID, 'second', 'third');
my @roles = qw(postgres anna boris);
# Rows that the sandbox has without a request: "pushed N", of 1.00.
use constant PUSHED => 150;
my @requests;     # of each reference that was thought of
my $serial = 0;
my $pushed = 0;

sub new_request
{
	my $method = chance(0.4) ? 'createOrder' : 'createWithdrawal';
	my %request = (
		method => $method,
		shop => any_of(@shops[ 0, 0, 1, 1, 2 ]),
		role => any_of(@roles),
		amount => between(2, 9),
		reference => ($method eq 'createOrder' ? 'o' : 'p') . ++$serial);

	if (chance(0.1) && $pushed < PUSHED)
	{
		# somebody else's has that number: of another amount, or the same
		@request{qw(method shop reference)} = (any_of(qw(createOrder createWithdrawal)), SHOP_ID, 'pushed ' . ++$pushed);
		$request{amount} = 1 if chance(0.5);
	}
	push @requests, \%request;
	return \%request;
}

# One that is likely to be on its way.
sub some_request
{
	return new_request() unless @requests;
	my $back = chance(0.8) ? int rand 80 : int rand @requests;
	return $requests[ $#requests - ($back > $#requests ? $#requests : $back) ];
}

sub params_of
{
	my ($request, $amount) = @_;
	my ($name, $more) = $request->{method} eq 'createOrder' ? ('order_id', '') : ('payment_id', ', "account": "4111"');

	return sprintf('{"shop_id": "%s", "%s": "%s", "currency": "RUB", "amount": %s%s}',
		$request->{shop}, $name, $request->{reference}, $amount // $request->{amount}, $more);
}

sub quoted { return q{'} . $_[0] =~ s/'/''/gr . q{'}; }

# A statement of an operator, as a step of that number: each is a transaction,
# and its result is on record exactly if it committed.
sub statement
{
	my ($n, $request, $role, $what, $sql) = @_;

	return sprintf('SELECT property.step(%d, %s, %s, %s, %s, %s, %s);',
		$n, (map { quoted($_) } @{$request}{qw(shop method reference)}, $role, $what, $sql));
}

sub id_of
{
	my ($request) = @_;

	return sprintf('(SELECT id FROM property.request WHERE shop_id = %s AND method = %s AND reference = %s)',
		map { quoted($_) } @{$request}{qw(shop method reference)});
}

# What the provider does to one of the next requests of a method.
sub draw_fault
{
	my $method = weighted(createWithdrawal => 34, createOrder => 26, withdrawal => 22, order => 18);
	my $creates = $method =~ /^create/;
	my %more = (chance(0.8) ? () : (skip => between(1, 4)), chance(0.85) ? () : (times => between(2, 3)));
	my $executed = $creates && chance(0.5) ? JSON::PP::true : JSON::PP::false;
	my $refusal = sub {
		my ($text, %rest) = @_;
		return (answer => (body => JSON::PP->new->canonical->encode({ type => 'error', desc => $text }), %rest));
	};
	my @fault;
	my $kind = $creates
	  ? weighted(lose => 24, execute => 22, late => 28, refuse => 14, not_now => 8, duplicate => 5,
		rate => 1.5, unauthorized => 0.7, status => 8, garbage => 6, hide => 6, settle => 4)
	  : weighted(lose => 8, late => 8, not_now => 3, rate => 0.7, unauthorized => 0.3, status => 8,
		garbage => 6, empty => 14, hide => 12, refuse => 5, another => 6);

	if ($kind eq 'lose') { @fault = (any_of('close_before_read', 'close_after_read')); }
	elsif ($kind eq 'execute')
	{
		@fault = any_of([ 'execute_then_close' ], [ 'reset' ], [ cut => (bytes => between(0, 60)) ],
			[ 'execute_later', ms => between(50, 2000) ]);
		@fault = @{ $fault[0] };
	}
	elsif ($kind eq 'late')
	{
		@fault = (any_of(qw(hold execute_then_hold)), ms => any_of(between(50, 300), between(400, 2000)));
	}
	elsif ($kind eq 'refuse') { @fault = $refusal->(any_of(@{ $refusals{final} }), chance(0.1) ? (executed => $executed) : ()); }
	elsif ($kind eq 'not_now') { @fault = $refusal->(any_of(@{ $refusals{not_now} }), chance(0.2) ? (executed => $executed) : ()); }
	elsif ($kind eq 'duplicate') { @fault = $refusal->(any_of(@{ $refusals{duplicate} }), executed => $executed); }
	elsif ($kind eq 'unauthorized') { @fault = $refusal->(any_of(@{ $refusals{unauthorized} })); }
	elsif ($kind eq 'rate')
	{
		@fault = ('answer', status => 429, headers => { 'Retry-After' => '1' }, body => '', executed => $executed);
	}
	elsif ($kind eq 'status')
	{
		@fault = ('answer', status => weighted(500 => 30, 502 => 30, 504 => 20, 204 => 10, 403 => 2),
			body => any_of('<html>bad gateway</html>', '', '{"type":"error","desc":"Nothing was done"}',
				'{"type":"success","desc":"","data":{"id":1}}'), executed => $executed);
		# a refusal that comes with 403 is one of the key
		$fault[4] = '<html>forbidden</html>' if $fault[2] == 403;
	}
	elsif ($kind eq 'garbage')
	{
		@fault = ('answer', body => any_of('', '{"type":', '[]', '"success"', '{"data":{}}', "\0", '{"type":true}'), executed => $executed);
	}
	elsif ($kind eq 'empty')
	{
		@fault = ('answer', body => '{"type":"success","desc":"","data":' . any_of('[]', 'null', '{}', '""') . '}');
	}
	elsif ($kind eq 'another')
	{
		# of a number that somebody else may have
		my $request = some_request();
		@fault = ('answer', body => sprintf(
			'{"type":"success","desc":"","data":{"id":%d,"payment_id":"%s","amount":"%s","currency_id":1,"status":2}}',
			between(1, 9), $request->{reference}, any_of('1.00', $request->{amount} + 20)));
	}
	elsif ($kind eq 'hide') { @fault = ('hide', ms => between(200, 1500)); }
	elsif ($kind eq 'settle') { @fault = ('settle', result => any_of(qw(failed returned accepted), 2, 77)); }

	# what changes nothing executes nothing
	my ($action, %fault) = @fault;
	delete $fault{executed} unless $fault{executed};
	return if $action eq 'settle' && $method ne 'createWithdrawal';
	%fault = (%more, %fault);
	# in an order of its own, so that the same seed gives the same text
	return ($method, $action, map { ($_ => $fault{$_}) } sort keys %fault);
}

# Draws a step; returns who takes it, and what it is.
sub draw_step
{
	my ($n) = @_;
	my $kind = weighted(
		enqueue => 25, again => 5, sync => 2, fault => 32, cancel => 4, retry => 8, refresh => 6,
		accepted => 2, refused => 4, resend => 6, terminate => 0.4, reload => 1.5, clock => 3);

	if ($kind eq 'fault')
	{
		my @fault = draw_fault() or return draw_step($n);
		return (fault => \@fault);
	}
	return (clock => between(200, 2500)) if $kind eq 'clock';
	return ($kind, '') if $kind eq 'reload';
	if ($kind eq 'terminate')
	{
		return (operator => q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'tegro delivery worker';});
	}
	my $request = $kind eq 'enqueue' ? new_request() : some_request();
	my $role = chance(0.85) ? $request->{role} : any_of(@roles);

	if ($kind eq 'enqueue' || $kind eq 'again')
	{
		my $amount = $kind eq 'again' && chance(0.3) ? 50 : $request->{amount};
		my $sql = sprintf(q{SELECT tegro_enqueue('%s', %s%s)}, $request->{method}, quoted(params_of($request, $amount)),
			chance(0.1) ? sprintf(q{, deliver_after => clock_timestamp() + interval '%d ms'}, between(100, 1500)) : '');
		my $is_undone = chance(0.05);
		my $statement = statement($n, $request, $role, $is_undone ? 'undone' : "enqueue $amount", $sql);

		return (operator => $is_undone ? "BEGIN; $statement ROLLBACK;" : $statement);
	}
	if ($kind eq 'sync')
	{
		$request = new_request() while $request->{method} ne 'createWithdrawal';
		my $statement = statement($n, $request, $request->{role}, "sync $request->{amount}",
			sprintf(q{SELECT tegro_create_withdrawal(%s) ->> 'type'}, quoted(params_of($request))));
		# most give up waiting before it is over
		return (payer => $statement) if chance(0.15);
		return (payer => sprintf('SET statement_timeout = %d; %s RESET statement_timeout;', between(50, 600), $statement));
	}
	my %states = (
		cancel => [qw(ready)], retry => [qw(refused cancelled accepted)], refresh => [qw(ready unknown review)],
		map { ($_ => [qw(unknown review)]) } qw(accepted refused resend));
	my $call = $kind =~ /^(?:cancel|retry|refresh)$/ ? "SELECT tegro_$kind(%s)" : "SELECT tegro_resolve(%s, '$kind', 'step $n')";

	# one by lot that has the state for it; or one that may be anything
	if (chance(0.6))
	{
		my @states = $kind eq 'retry' && chance(0.8) ? qw(refused cancelled)
		  : $kind =~ /^re(?:send|fused)$/ && chance(0.6) ? 'unknown' : @{ $states{$kind} };
		return (operator => sprintf(q{SELECT property.decide(%d, '{%s}', '%s', %s, %s);},
			$n, join(',', @states), chance(0.3) ? 'postgres' : '', quoted($kind), quoted($call)));
	}
	my $id = id_of($request);
	my $sql = sprintf($call, $id);
	return (operator => statement($n, $request, chance(0.3) ? 'postgres' : $role, $kind, $sql));
}


sub describe
{
	my ($what) = @_;

	return ref $what ? JSON::PP->new->canonical->allow_nonref->encode($what) : $what;
}

# All of them, before anything else draws by lot.
srand($seed);
my $not_found = any_of(qw(error empty null));
my @steps = map { [ draw_step($_) ] } 0 .. STEPS - 1;
my $n_taken = 0;

{
	my $text = join('', map { "$_: $steps[$_][0] " . describe($steps[$_][1]) . "\n" } 0 .. $#steps);
	my $name = "steps_$seed";

	TegroTest::spew("$PostgreSQL::Test::Utils::log_path/$name", $text);
	note('steps ', substr(Digest::SHA::sha256_hex($text), 0, 16), ", in tmp_check/log/$name");
}


#
# The server
#

my $sandbox = sandbox(arguments => [ '--not-found', $not_found, '--payout-delay', 200,
		map { ('--shop', "$_:key-of-$_:secret-of-$_") } @shops[ 1 .. $#shops ] ]);
my $node = outbox_cluster('property', $sandbox, conf => <<"END");
tegro.timeout = '400ms'
tegro.connect_timeout = '400ms'
tegro.claim_timeout = '3s'
tegro.review_after = '2s'
tegro.max_attempts = @{[MAX_ATTEMPTS]}
tegro.max_concurrency = 64
max_worker_processes = 16
max_connections = 40
synchronous_commit = off
autovacuum_naptime = '5s'
END

{
	my $path = $node->safe_psql('postgres', 'SHOW tegro.credentials_file');

	# in place: it keeps its owner and mode
	open(my $file, '>>', $path) or die "could not write $path: $!";
	print {$file} map { "$_:*:key-of-$_:secret-of-$_\n" } @shops[ 1 .. $#shops ];
	close($file) or die "could not write $path: $!";
	$node->reload;
}
$node->safe_psql('postgres', <<"END");
CREATE SCHEMA property;
CREATE TABLE property.result (n int, shop_id text, method text, reference text, what text, value text,
	sqlstate text, message text, at timestamptz);
CREATE VIEW property.request AS SELECT id, shop_id, method, reference FROM tegro_outbox;
GRANT USAGE ON SCHEMA property TO PUBLIC;
GRANT SELECT ON property.request TO PUBLIC;
-- the request that a step is about: one by lot that has one of some states; the one that
-- has become unknown last, whose answer may still come
CREATE FUNCTION property.pick(n int, states text[]) RETURNS bigint LANGUAGE sql AS \$\$
	SELECT id FROM tegro_outbox WHERE state = ANY (states)
	 ORDER BY CASE WHEN states = '{unknown}' THEN unknown_since END DESC, md5(id::text || n::text) LIMIT 1
\$\$;
CREATE FUNCTION property.decide(n int, states text[], role text, what text, statement text)
RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	picked bigint := property.pick(n, states);
BEGIN
	PERFORM property.step(n, o.shop_id, o.method, o.reference, CASE role WHEN '' THEN o.enqueued_by_name ELSE role END,
		what, format(statement, o.id)) FROM tegro_outbox o WHERE o.id = picked;
END \$\$;
CREATE FUNCTION property.step(n int, shop_id text, method text, reference text, role text, what text, statement text)
RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	value text;
	problem text := '';
	message text := '';
BEGIN
	PERFORM set_config('role', role, true);
	BEGIN
		EXECUTE statement INTO value;
	EXCEPTION WHEN OTHERS THEN
		problem := SQLSTATE;
		message := SQLERRM;
	END;
	PERFORM set_config('role', 'none', true);
	INSERT INTO property.result VALUES (n, shop_id, method, reference, what, value, problem, message, clock_timestamp());
END \$\$;
@{[ map { "CREATE ROLE $_ LOGIN; GRANT EXECUTE ON FUNCTION tegro_enqueue(text, jsonb, regprocedure, timestamptz), "
	. "tegro_create_withdrawal(jsonb), tegro_cancel(bigint), tegro_retry(bigint), tegro_refresh(bigint), "
	. "tegro_resolve(bigint, text, text) TO $_;\n" } @roles[ 1 .. $#roles ] ]}
END

# somebody else's rows
foreach my $kind (qw(orders withdrawals))
{
	$sandbox->fault($kind, 'push', count => PUSHED);
	$node->safe_psql('postgres', "SELECT count(*) FROM tegro_$kind()");
}

sub new_session
{
	my $session = session($node);

	$session->query('SET client_min_messages = error');
	return $session;
}
my @operators = map { new_session() } 1 .. OPERATORS;
my @payers = map { { session => new_session(), queue => [], busy => 0 } } 1 .. PAYERS;
my $clock_ms = 0;
my $failures = '';    # of statements that should not fail

# Moves the clock by which deadlines are decided.
sub forward
{
	my ($ms) = @_;
	my $file = $node->data_dir . '/tegro_clock';

	$clock_ms += $ms;
	TegroTest::spew("$file.new", "$clock_ms\n");
	rename("$file.new", $file) or die "could not rename $file.new: $!";
	return;
}

# Has those who wait for payouts go on; returns how many wait.
sub pay
{
	my $busy = 0;

	foreach my $payer (@payers)
	{
		if ($payer->{busy} && $payer->{session}->poll(0))
		{
			my $result = $payer->{session}->wait;
			$failures .= $result->{err} unless $result->{sqlstate} eq '57014';
			$payer->{busy} = 0;
		}
		if (!$payer->{busy} && @{ $payer->{queue} })
		{
			$payer->{session}->send(shift @{ $payer->{queue} });
			$payer->{busy} = 1;
		}
		$busy++ if $payer->{busy};
	}
	return $busy;
}

# Takes so many steps, a few at once.
my $n_payers = 0;

sub take_steps
{
	my ($count) = @_;

	for (my $done = 0; $done < $count; $done += BATCH)
	{
		my @work = map { [] } 1 .. OPERATORS;

		foreach (1 .. ($count - $done < BATCH ? $count - $done : BATCH))
		{
			my $n = $n_taken++;
			my ($who, $what) = @{ $steps[$n] };

			if ($who eq 'fault') { $sandbox->fault(@$what); }
			elsif ($who eq 'clock') { forward($what); }
			elsif ($who eq 'reload') { push @{ $work[0] }, 'SELECT pg_reload_conf();'; }
			elsif ($who eq 'payer') { push @{ $payers[ $n_payers++ % PAYERS ]{queue} }, $what; }
			else { push @{ $work[ $n % OPERATORS ] }, $what; }
		}
		$operators[$_]->send(join("\n", @{ $work[$_] })) foreach 0 .. $#operators;
		foreach my $operator (@operators)
		{
			pay() until $operator->poll(0.01);
			$failures .= $operator->wait->{err};
		}
		# what is sent has some time, and so have those who wait
		my $until = time + 0.15;
		while (time < $until) { pay(); sleep 0.02; }
	}
	return;
}

# Has requests sent or looked up now; one that is finished meanwhile cannot be.
sub refresh_all
{
	my ($which) = @_;

	return ask($node, qq{DO \$\$ DECLARE request record; BEGIN
		FOR request IN SELECT id FROM tegro_outbox WHERE $which LOOP
			BEGIN
				PERFORM tegro_refresh(request.id);
			EXCEPTION WHEN object_not_in_prerequisite_state THEN
				NULL;
			END;
		END LOOP; END \$\$});
}

# Lets all come to rest; returns what does not.
sub come_to_rest
{
	my @complaints;
	my $open = q{state IN ('ready', 'sending', 'unknown')};

	$sandbox->clear_faults;
	while (pay()) { sleep 0.05; }
	sleep 2.5;                # what the provider holds, or executes later
	ask($node, 'SELECT pg_reload_conf()');
	push @complaints, map { "waits for nothing: $_" } split(/\n/, ask($node,
			"SELECT id || ' ' || state FROM tegro_outbox WHERE $open AND next_at IS NULL")->{out});
	my $rested = wait_until(
		sub {
			refresh_all(q{state IN ('ready', 'unknown') AND next_at > clock_timestamp() + interval '1500 ms'});
			return 1 if ask($node, "SELECT count(*) FROM tegro_outbox WHERE $open")->{out} eq '0';
			forward(1000);
			sleep 0.5;
			return 0;
		},
		60);
	push @complaints, map { "goes on for ever: $_" } split(/\n/, ask($node,
			"SELECT id || ' ' || state || ', next at ' || coalesce(next_at::text, '-') FROM tegro_outbox WHERE $open")->{out})
	  unless $rested;

	# what is in review, and may have been sent, is looked up until a lookup has
	# told something
	my $refreshed = refresh_all(q{state = 'review'});
	push @complaints, "requests in review cannot be refreshed: $refreshed->{err}" if $refreshed->{sqlstate} ne '';
	push @complaints, 'requests in review are not looked up' unless wait_until(
		sub {
			refresh_all(q{state = 'review' AND failures > 0});
			sleep 0.5;
			return ask($node, q{SELECT count(*) FROM tegro_outbox WHERE state = 'review' AND next_at IS NOT NULL
				AND (claimed_until > clock_timestamp() OR next_at <= clock_timestamp() OR failures > 0)})->{out} eq '0';
		},
		60);
	return @complaints;
}


#
# What there is to judge
#

my @request_columns = qw(id shop_id method reference state next_at sent_claim_no claim_no attempts unknown_since
  finished_at events claimed_until message decision amount);
my @event_columns = qw(outbox_id event_no event claim_no role_name state message nonce outcome http_status started ended);

# All requests, with their events, steps and journal lines.
sub collect
{
	# what is in the journal now must be on record in a moment
	$sandbox->control('POST', 'flush');
	my $journal_mark = -s $sandbox->{journal};
	my $fields = sub {
		return join(q{ || E'\t' || }, map { "translate(coalesce(($_)::text, ''), E'\\t\\n\\r', '   ')" } @_);
	};
	my $us = sub { return "(extract(epoch FROM $_[0]) * 1000000)::bigint"; };
	my $result = ask($node, sprintf(<<'END',
SELECT 'R' || E'\t' || %s FROM tegro_outbox
 UNION ALL
SELECT 'E' || E'\t' || %s FROM tegro_event
 UNION ALL
SELECT 'S' || E'\t' || %s FROM property.result
END
		$fields->(@request_columns[ 0 .. $#request_columns - 1 ], "params ->> 'amount'"),
		$fields->(@event_columns[ 0 .. $#event_columns - 2 ], $us->('started_at'), $us->('ended_at')),
		$fields->(qw(n shop_id method reference what value sqlstate message), $us->('at'))));
	die "the outbox could not be read: $result->{err}" if $result->{err} ne '';
	my (%by_id, %by_key, @events, @results);

	foreach my $line (split(/\n/, $result->{out}))
	{
		my ($kind, @values) = split(/\t/, $line, -1);
		my %row;

		if ($kind eq 'R')
		{
			@row{@request_columns} = @values;
			@row{qw(sends history results lines)} = ([], [], [], []);
			$by_id{ $row{id} } = $by_key{"$row{shop_id} $row{method} $row{reference}"} = \%row;
		}
		elsif ($kind eq 'E')
		{
			@row{@event_columns} = @values;
			push @events, \%row;
		}
		else
		{
			@row{qw(n shop_id method reference what value sqlstate message at)} = @values;
			push @results, \%row;
		}
	}
	my @complaints;
	foreach my $event (sort { $a->{event_no} <=> $b->{event_no} } @events)
	{
		my $request = $by_id{ $event->{outbox_id} };
		if (!$request) { push @complaints, "an event of no request: $event->{outbox_id}"; next; }
		push @{ $request->{history} }, $event;
		push @{ $request->{sends} }, $event if $event->{event} eq 'send';
	}
	foreach my $done (sort { $a->{n} <=> $b->{n} } @results)
	{
		my $request = $by_key{"$done->{shop_id} $done->{method} $done->{reference}"};
		my ($amount) = $done->{what} =~ /^enqueue (\d+)/;

		# c
		if ($done->{what} eq 'undone') { push @complaints, "step $done->{n} was undone, and is there"; }
		if ($done->{what} =~ /^enqueue/ && $done->{sqlstate} eq '')
		{
			push @complaints, "step $done->{n} was committed, and is not on record" unless $request;
			push @complaints, "step $done->{n} was taken for another request"
			  if $request && ($request->{id} ne $done->{value}
				|| ($request->{amount} != $amount && !grep { $_->{event} eq 'corrected' } @{ $request->{history} }));
		}
		push @complaints, "step $done->{n} ended in $done->{sqlstate}: $done->{message}"
		  if $done->{sqlstate} !~ /^(?:|TG00[1-57]|55000|42704|42501|22004|40001)$/;
		push @{ $request->{results} }, $done if $request;
	}

	# the journal; JSON::PP would take longer than all the rest
	$sandbox->control('POST', 'flush');
	open(my $journal, '<:raw', $sandbox->{journal}) or die "could not open $sandbox->{journal}: $!";
	while (my $line = <$journal>)
	{
		next unless $line =~ /"method": ?"(create(?:Order|Withdrawal))"/;
		my $method = $1;
		my ($nonce) = $line =~ /"nonce": ?"?(\d+)/;
		my ($shop) = $line =~ /\\"shop_id\\": ?\\"(.*?)\\"/;
		my ($reference) = $line =~ /\\"(?:order_id|payment_id)\\": ?\\"(.*?)\\"/;

		# what was closed before it was read has no body
		next unless defined $nonce && defined $reference;
		my $request = $by_key{"$shop $method $reference"};
		my $is_old = tell($journal) <= $journal_mark;
		if (!$request)
		{
			push @complaints, "a: it came, and is not on record: $line" if $is_old;
			next;
		}
		push @{ $request->{lines} }, {
			nonce => $nonce,
			is_old => $is_old,
			is_deferred => scalar($line =~ /"deferred": ?true/),
			is_executed => scalar($line =~ /"executed": ?true/),
			text => $line
		};
	}
	close($journal);
	return ([ sort { $a->{id} <=> $b->{id} } values %by_id ], @complaints);
}


#
# The table's judgement
#

# The events that the end of a send may be.
sub ends_of
{
	my ($send, $request) = @_;
	my $is_payout = $request->{method} eq 'createWithdrawal';
	my $outcome = $send->{outcome};

	return 'ACCEPT' if $outcome eq 'answered';
	return 'DOUBT' if $outcome eq 'unknown';
	return qw(NOT_SENT NOT_SENT_AND_STOP) if $outcome eq 'not sent';
	return $is_payout ? 'DOUBT' : qw(PUT_OFF REFUSE) if $outcome eq 'rate limited';
	return () if $outcome ne 'refused';
	my $kind = kind_of_refusal($send->{message});
	return 'DOUBT' if $kind eq 'duplicate';
	return qw(NOT_SENT NOT_SENT_AND_STOP) if $kind eq 'unauthorized';
	return 'REFUSE' if $kind eq 'final';
	return $is_payout ? 'DOUBT' : qw(PUT_OFF REFUSE);
}

# What is wrong with the way that a request has taken.
sub judge_path
{
	my ($request) = @_;
	my ($state, $is_doubtful, $attempts, $events, $last_send) = ('ready', 0, 0, 0, 0);
	my (@moments, @complaints);

	foreach my $event (@{ $request->{history} })
	{
		push @complaints, "event $event->{event_no} stands where $events stood" if $event->{event_no} != ++$events;
		push @moments, [ $event->{started}, $event, 'begins' ];
		push @moments, [ $event->{ended}, $event, 'ends' ] if $event->{event} eq 'send' && $event->{state} ne '';
		push @complaints, "send $event->{event_no} has no outcome, and a state"
		  if $event->{event} eq 'send' && $event->{state} ne '' && $event->{outcome} eq '';
	}
	# a request is locked while it changes: the order is that of the changes
	foreach my $moment (sort { $a->[0] <=> $b->[0] || $a->[1]{event_no} <=> $b->[1]{event_no} } @moments)
	{
		my (undef, $event, $part) = @$moment;
		my $is_end = $part eq 'ends';
		my $is_claim = $event->{event} eq 'send' && !$is_end;
		my $to = $is_claim ? 'sending' : $event->{state};
		my @names = $is_end ? ends_of($event, $request)
		  : $is_claim ? 'CLAIM' : grep { $event_names{$_} eq $event->{event} } keys %event_names;
		# of the end, what was in doubt before the send counts
		my @arrows = grep { $_->{to} eq $to && ($is_end || $_->{with}{RECORD}) }
		  arrows_from($state, $request->{method}, $is_end ? $event->{was_doubtful} : $is_doubtful, @names);

		# what the provider says to an earlier send says nothing of the last
		push @complaints, "send $event->{event_no} ends after send $last_send has begun, and makes it \"$to\""
		  if $is_end && $event->{event_no} < $last_send;
		$last_send = $event->{event_no} if $is_claim;
		if (!@arrows)
		{
			push @complaints, sprintf('no arrow leads from "%s" by event %d, "%s"%s, to "%s"',
				$state, $event->{event_no}, $event->{event}, $is_end ? " ($event->{outcome})" : '', $to);
			return @complaints;
		}
		$event->{was_doubtful} = $is_doubtful if $is_claim;
		$is_doubtful = $event->{was_doubtful} if $is_end;
		$is_doubtful = 1 if $arrows[0]{with}{DOUBT};
		$attempts++ if $is_claim;
		$attempts-- if $arrows[0]{with}{UNSENT};
		$state = $to;
	}
	my $has_doubt = $request->{unknown_since} ne '' ? 1 : 0;
	my $is_end = $state =~ /^(?:accepted|refused|cancelled)$/;
	push @complaints, "its events lead to \"$state\", and it is \"$request->{state}\"" if $state ne $request->{state};
	push @complaints, "it has $request->{attempts} attempts, by its events $attempts" if $attempts != $request->{attempts};
	push @complaints, "it has $request->{events} events, on record are $events" if $events != $request->{events};
	push @complaints, "its doubt is $has_doubt, by its events $is_doubtful" if $has_doubt != $is_doubtful;
	push @complaints, 'it is finished, and has a time for the next' if $is_end && $request->{next_at} ne '';
	push @complaints, 'it has the wrong time of its end' if $is_end != ($request->{finished_at} ne '');
	return @complaints;
}


#
# The oracle
#

# What is as it is designed, and worth knowing: counted, and noted.
my %remarks;

# What is wrong with a request by what the provider got and persons did.
sub judge_request
{
	my ($request, $is_quiet) = @_;
	my $is_payout = $request->{method} eq 'createWithdrawal';
	my ($state, @complaints) = ($request->{state});
	my (%came, %executed, %send_of);
	my @sends = @{ $request->{sends} };
	my @results = grep { $_->{sqlstate} eq '' } @{ $request->{results} };

	# a
	$send_of{ $_->{nonce} } = $_ foreach @sends;
	foreach my $line (@{ $request->{lines} })
	{
		push @complaints, "a: nonce $line->{nonce} came, and is no send of it" if $line->{is_old} && !$send_of{ $line->{nonce} };
		$came{ $line->{nonce} }++ unless $line->{is_deferred};
		$executed{ $line->{nonce} }++ if $line->{is_executed};
	}
	push @complaints, map { "a: nonce $_ came $came{$_} times" } grep { $came{$_} > 1 } sort keys %came;
	foreach my $send (@sends)
	{
		my ($came, $executed) = map { $_->{ $send->{nonce} } } \%came, \%executed;

		push @complaints, "a: send $send->{event_no} is \"not sent\", and came" if $send->{outcome} eq 'not sent' && $came;
		push @complaints, "g: send $send->{event_no} was answered, and not executed"
		  if $send->{outcome} eq 'answered' && !$executed;
		$send->{is_lie} = $executed && $send->{outcome} =~ /^(?:refused|rate limited)$/;
		# no, and certainly not: what b allows to be sent again
		$send->{is_harmless} = $send->{outcome} eq 'not sent' && !$came
		  || $send->{outcome} eq 'refused' && kind_of_refusal($send->{message}) eq 'unauthorized' && !$executed;
	}
	my $executions = grep { $_->{is_executed} && $_->{is_old} } @{ $request->{lines} };
	my $lies = grep { $_->{is_lie} } @sends;
	# a correction is a person's, too: other parameters for one that was refused
	my @permits = ((grep { $_->{what} =~ /^(?:retry|resend)$/ } @results),
		(grep { $_->{event} eq 'corrected' } @{ $request->{history} }));

	# b
	if ($is_payout)
	{
		my $sent;
		foreach my $event (@{ $request->{history} })
		{
			if ($event->{event} =~ /^(?:retried|corrected)$/ || $event->{event} eq 'resolved' && $event->{state} eq 'ready') { $sent = undef; }
			next unless $event->{event} eq 'send';
			push @complaints, "b: payout sent again by event $event->{event_no}, after event $sent, and nobody said so" if $sent;
			$sent = $event->{event_no} unless $event->{is_harmless};
		}
		push @complaints, sprintf('b: payout executed %d times, and %d times a person had it sent again', $executions, scalar @permits)
		  if $executions > 1 + @permits;
	}
	push @complaints, sprintf('a: executed %d times by %d sends', $executions, scalar @sends) if $executions > @sends;

	return @complaints unless $is_quiet;

	# d
	my %decided = map { ($_->{what} => 1) } @results;
	my $is_anothers = $request->{reference} =~ /^pushed/;
	push @complaints, 'd: accepted, and never executed'
	  if $state eq 'accepted' && !$executions && !$decided{accepted} && !$is_anothers;
	# e
	push @complaints, 'e: refused, and executed' if $state eq 'refused' && $executions > $lies && !$decided{refused};
	# f
	my $was_missed = grep { $_->{event} eq 'not found' } @{ $request->{history} };
	push @complaints, 'f: cancelled, and executed'
	  if $state eq 'cancelled' && $executions > $lies && !@permits && !(!$is_payout && $was_missed);
	if ($state eq 'cancelled' && $executions > $lies)
	{
		$remarks{ $was_missed && !@permits ? 'orders cancelled after "not found", and executed' : 'cancelled after a person had it sent again, and executed' }++;
	}
	push @complaints, "c: never sent, and \"$state\"" if !@sends && $state ne 'cancelled';
	push @complaints, 'c: cancelled, and nobody did' if $state eq 'cancelled' && !$decided{cancel};
	# g
	my $last = $sends[-1];
	push @complaints, "g: the last send was answered, and it is \"$state\""
	  if $last && $last->{outcome} eq 'answered' && $state ne 'accepted'
	  && !grep { $_->{event} =~ /^(?:retried|corrected)$/ && $_->{event_no} > $last->{event_no} } @{ $request->{history} };
	$remarks{'orders found by lookup, whose answer came later, and with it the link'}++
	  if $state eq 'accepted' && !$is_payout && (grep { $_->{event} eq 'found' } @{ $request->{history} })
	  && grep { $_->{outcome} eq 'answered' && $_->{state} eq '' } @sends;
	$remarks{'refused, and executed: the provider lied'}++ if $state eq 'refused' && $lies;
	# h: in review, and it could be found
	push @complaints, 'h: in review, and the provider has it'
	  if $state eq 'review' && $executions && $request->{unknown_since} ne ''
	  # what it has is what was asked for before the correction
	  && !($request->{message} =~ /^found under this reference, but different/ && grep { $_->{event} eq 'corrected' } @{ $request->{history} });
	push @complaints, "h: it is \"$state\"" if $state =~ /^(?:ready|sending|unknown)$/;
	# i
	my %on_record;
	foreach my $event (@{ $request->{history} })
	{
		my $name = { cancelled => 'cancel', retried => 'retry', resolved => $event->{state} eq 'ready' ? 'resend' : $event->{state} }->{ $event->{event} };
		$on_record{$name}++ if $name;
	}
	foreach my $name (qw(cancel retry accepted refused resend))
	{
		my ($done, $recorded) = (scalar(grep { $_->{what} eq $name } @results), $on_record{$name} // 0);
		push @complaints, "i: \"$name\" succeeded $done times, and is on record $recorded times" if $done != $recorded;
	}
	push @complaints, 'g: a session had an answer, and nothing was executed'
	  if !$executions && !$is_anothers && grep { $_->{what} =~ /^sync/ && $_->{value} eq 'success' } @results;
	return @complaints;
}

# All that is known of a request.
sub history_of
{
	my ($request) = @_;
	my @lines = ("request $request->{id}, $request->{method} \"$request->{reference}\" of $request->{shop_id}:");

	push @lines, join(', ', map { "$_ $request->{$_}" } grep { $request->{$_} ne '' } @request_columns[ 4 .. $#request_columns ]);
	foreach my $event (@{ $request->{history} })
	{
		push @lines, '  event ' . join(', ', map { "$_ $event->{$_}" } grep { $event->{$_} ne '' } @event_columns[ 1 .. $#event_columns ]);
	}
	push @lines, map {
		"  step $_->{n} at $_->{at}: $_->{what}: " . ($_->{sqlstate} eq '' ? 'done' : "$_->{sqlstate} $_->{message}")
	} @{ $request->{results} };
	push @lines, map { "  journal $_->{text}" =~ s/\n//r } @{ $request->{lines} };
	return join("\n", @lines);
}

# Judges all there is; returns the number of complaints, and the states.
sub judge_all
{
	my ($is_quiet) = @_;
	%remarks = ();
	my ($requests, @complaints) = collect();
	my (%kinds, %states);
	my $count = @complaints;

	diag($_) foreach @complaints[ 0 .. ($#complaints < 9 ? $#complaints : 9) ];
	foreach my $request (@$requests)
	{
		my @path = judge_path($request);
		my @wrong = (@path, judge_request($request, $is_quiet));

		$states{"$request->{method} $request->{state}"}++;
		next unless @wrong;
		$count += @wrong;
		diag(join("\n", "\n$wrong[0]", @wrong[ 1 .. $#wrong ], history_of($request))) if $kinds{ $wrong[0] =~ s/"[^"]*"|\d+//gr }++ < SHOWN;
	}
	diag(sprintf('%6d  %s', $kinds{$_}, $_)) foreach sort keys %kinds;
	return ($count, \%states);
}


#
# The test
#

my $mark = log_mark($node);

for (my $done = 0; $done < STEPS; $done += ROUND)
{
	my $count = STEPS - $done < ROUND ? STEPS - $done : ROUND;

	# judged once while all is on its way
	take_steps(int($count / 2));
	my ($on_the_way) = judge_all(0);
	is($on_the_way, 0, sprintf('after %d steps, on the way', $n_taken));
	take_steps($count - int($count / 2));
	my @restless = come_to_rest();
	is(join("\n", @restless), '', sprintf('after %d steps, all comes to rest', $n_taken));
	my ($at_rest, $states) = judge_all(1);
	is($at_rest, 0, 'at rest, all is as it must be');
	note(join('; ', map { "$remarks{$_} $_" } sort keys %remarks));
	note(sprintf('%.0f s: %s', time - $begun, join(', ', map { "$states->{$_} $_" } sort keys %$states)));
}

is($failures, '', 'no statement failed otherwise');
my $log = log_since($node, $mark);
# payouts that are not taken are told to whoever waits, by a process of their own
my @bad = grep {
	/must not change|impossible|TRAP|PANIC|terminated by signal|cannot be sent|is not on record|taken for unsent|(?<!110_property\.pl )ERROR: /
	  && !/ERROR:  payment_id .* (?:has been used|is another request)$/
} split(/\n/, $log);
is(join("\n", @bad[ 0 .. ($#bad < 9 ? $#bad : 9) ]), '', 'the server has nothing to say that it must not');
is(scalar(() = $log =~ /all server processes terminated/g), 0, 'and did not crash');

# what did not happen was not tested
{
	my $seen = ask($node, q{SELECT string_agg(what || ' ' || count, ', ' ORDER BY what) FROM
		(SELECT coalesce(outcome, event) AS what, count(*) FROM tegro_event GROUP BY 1) q})->{out};
	my @missing = grep { $seen !~ /(?:^|, )$_ \d/ } 'answered', 'unknown', 'refused', 'rate limited',
	  'no answer', 'lost', 'found', 'not found', 'given up', 'cancelled', 'retried', 'resolved';

	note($seen);
	note(ask($node, q{SELECT string_agg(what, ', ' ORDER BY what) FROM (SELECT concat_ws(' ', split_part(what, ' ', 1),
		nullif(sqlstate, ''), count(*)) AS what FROM property.result GROUP BY split_part(what, ' ', 1), sqlstate) q})->{out});
	is("@missing", '', 'each event has happened') if STEPS >= ROUND;
}
diag("TEGRO_PROPERTY_SEED=$seed TEGRO_PROPERTY_STEPS=@{[STEPS]} script/test t/110_property.pl takes the same steps again; their timing may differ")
  unless Test::More->builder->is_passing;
note(sprintf('%.0f s', time - $begun));
done_testing();
