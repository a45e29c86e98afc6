#!/usr/bin/env perl

# 501_report.pl: tegro_report() as a person sees it, in a browser.
#
# Chromium opens the page on a desk and on a phone, in light and in dark, and
# tells what is there: its text, what sticks out to the right, how well letters
# stand out from what is behind them, and any element or attribute that has no
# business there.  The outbox is full of texts that try to become more than
# texts.  The page is parsed as XML, too: a parser that forgives nothing.
#
# What was seen is in the log directory, report-*.png.  Where
# TEGRO_REPORT_IMAGES names a directory, those of docs/images are put there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use File::Copy qw(copy);
use IPC::Run;
use JSON::PP;
use MIME::Base64 qw(decode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

use TegroTest;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $logs = $PostgreSQL::Test::Utils::log_path;
my $serial = 0;

# Chromium starts some processes and threads first.
use constant PATIENCE => 120;

# Runs the browser on a page, in a profile of its own; returns what it prints.
sub browse
{
	my ($html, %options) = @_;
	my $name = "$dir/page_" . ++$serial;
	my ($out, $err) = ('', '');

	open(my $file, '>:raw', "$name.html") or die "could not write $name.html: $!";
	print {$file} $html;
	close($file);
	my @command = (
		'chromium', qw(--headless --no-sandbox --disable-gpu --disable-quic --no-first-run),
		qw(--disable-background-networking --disable-component-update --disable-sync),
		qw(--hide-scrollbars --force-device-scale-factor=1),
		"--user-data-dir=$name.profile",
		"--window-size=$options{width},$options{height}",
		# 0 is dark, 1 is light
		'--blink-settings=preferredColorScheme=' . ($options{dark} ? 0 : 1),
		$options{image} ? "--screenshot=$options{image}" : '--dump-dom',
		"file://$name.html");
	my $ok = eval {
		IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err,
			IPC::Run::timeout(PATIENCE));
	};
	BAIL_OUT("chromium failed: $@ $err") unless $ok;
	return $out;
}

sub escape
{
	my ($text) = @_;

	return $text =~ s/([&<>"])/sprintf('&#%d;', ord($1))/ger;
}

# The page in a frame of this width, which may be less than a window's least.
sub framed
{
	my ($page, %options) = @_;
	my $scheme = $options{dark} ? 'dark' : 'light';

	return qq{<!DOCTYPE html><html style="color-scheme:$scheme"><body style="margin:0">}
	  . qq{<iframe style="border:0;display:block" width="$options{width}" height="$options{height}" srcdoc="}
	  . escape($page) . q{"></iframe><div id="seen"></div>} . ($options{script} // '') . '</body></html>';
}

# What a browser makes of the page: see the script.
sub look
{
	my ($page, %options) = @_;
	my $script = <<'END';
<script>
const text = document.querySelector('iframe').srcdoc;
onload = () => {
	const inner = document.querySelector('iframe').contentDocument;
	const shade = (color) => {
		const [r, g, b, a] = color.match(/[\d.]+/g).map(Number);
		const linear = [r, g, b].map((v) => v / 255).map((v) =>
			v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
		return { a: a ?? 1, l: 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] };
	};
	// by the rule of the Web Content Accessibility Guidelines
	const contrast = (element) => {
		let behind = element;
		while (behind && shade(getComputedStyle(behind).backgroundColor).a < 1)
			behind = behind.parentElement;
		const [x, y] = [shade(getComputedStyle(element).color).l,
			shade(getComputedStyle(behind ?? inner.body).backgroundColor).l];
		return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
	};
	const elements = [...inner.querySelectorAll('*')];
	const written = elements.filter((e) => inner.body.contains(e) &&
		[...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim() !== '') && e.checkVisibility() &&
		!(e instanceof inner.defaultView.SVGElement));
	const seen = {
		title: inner.title,
		text: inner.body.innerText,
		width: inner.documentElement.scrollWidth,
		height: inner.documentElement.scrollHeight,
		room: inner.documentElement.clientWidth,
		// what is wider than what it is in
		sticks_out: written.filter((e) => e.scrollWidth > e.clientWidth + 1 &&
			getComputedStyle(e).display !== 'inline').map((e) => e.textContent.slice(0, 60)),
		names: [...new Set(elements.map((e) => e.localName))].sort(),
		attributes: [...new Set(elements.flatMap((e) => [...e.attributes].map((a) => a.name)))].sort(),
		comments: [...elements].flatMap((e) => [...e.childNodes]).filter((n) => n.nodeType === 8).length,
		worst: written.map((e) => [contrast(e), e.textContent.slice(0, 60)]).sort((a, b) => a[0] - b[0])[0],
		bars: inner.querySelectorAll('.plot rect').length,
		background: getComputedStyle(inner.body).backgroundColor,
		strict: new DOMParser().parseFromString(text, 'application/xhtml+xml')
			.getElementsByTagName('parsererror')[0]?.textContent ?? 'ok',
	};
	document.querySelector('#seen').textContent = btoa(encodeURIComponent(JSON.stringify(seen)));
};
</script>
END
	my $dom = browse(framed($page, width => 390, height => 800, %options, script => $script),
		width => 1000, height => 1000, dark => $options{dark});
	my ($seen) = $dom =~ m{<div id="seen">([^<]+)</div>} or die "the page told nothing: $dom";
	$seen = decode_base64($seen) =~ s/%([0-9A-F]{2})/chr(hex($1))/ger;
	$seen = decode_json($seen);
	# bytes, as all texts of this program
	utf8::encode($seen->{text});
	return $seen;
}

# A picture; it is there, and as large as it should be.
sub take_picture
{
	my ($page, $name, $width, $height, %options) = @_;
	my $image = "$logs/$name.png";

	unlink $image;
	browse(framed($page, %options, width => $width, height => $height),
		width => $width, height => $height, image => $image, %options);
	open(my $file, '<:raw', $image) or die "could not open $image: $!";
	read($file, my $head, 24);
	close($file);
	is_deeply([ unpack('x16 N N', $head) ], [ $width, $height ], "$name: a picture");
	# one colour alone takes less
	cmp_ok(-s $image, '>', 10_000, "$name: something is on it");
	copy($image, $ENV{TEGRO_REPORT_IMAGES}) or die "could not copy $image: $!"
	  if $ENV{TEGRO_REPORT_IMAGES};
	return;
}

# What must hold of every page.
sub check
{
	my ($seen, $name) = @_;
	my %known = map { $_ => 1 } qw(html head meta title style body main header footer section
	  figure figcaption article ul li span b h1 h2 h3 p dl dt dd pre i div svg g rect line table thead
	  tbody tr th td small);
	my %harmless = map { $_ => 1 } qw(lang charset http-equiv content name class aria-hidden aria-label
	  role viewbox viewBox preserveAspectRatio shape-rendering x y x1 x2 y1 y2 width height rx);

	is($seen->{strict}, 'ok', "$name: it is well-formed");
	is(join(' ', grep { !$known{$_} } @{ $seen->{names} }), '', "$name: no element but its own");
	is(join(' ', grep { !$harmless{$_} } @{ $seen->{attributes} }), '', "$name: no attribute but its own");
	is($seen->{comments}, 0, "$name: no comment");
	is($seen->{width}, $seen->{room}, "$name: nothing is to be scrolled sideways");
	is(join("\n", @{ $seen->{sticks_out} }), '', "$name: nothing sticks out");
	cmp_ok($seen->{worst}[0], '>=', 4.5, "$name: all can be read; hardest: $seen->{worst}[1]");
	return;
}

# a provider, for who asks whether there is one
my $node = cluster('report', sandbox());

my $report = sub {
	my ($arguments) = @_;

	return $node->safe_psql('postgres', "SELECT tegro_report($arguments)");
};

# --- Nothing yet -------------------------------------------------------------------

my $seen = look($report->(''));
check($seen, 'empty');
like($seen->{text}, qr/Nothing is in review/, 'empty: nothing is in review');
like($seen->{text}, qr/Done\s+0\s+Refused\s+0\s+Waiting\s+0/, 'empty: nothing was done');
is($seen->{bars}, 0, 'empty: no bars');

# --- A day like many ---------------------------------------------------------------

# As the worker leaves it: an hour in which nothing could be sent, some
# refusals, some answers lost.
$node->safe_psql('postgres', q{
SET TimeZone = 'Europe/Moscow';
INSERT INTO tegro_outbox (shop_id, method, reference, params, state, next_at, attempts, enqueued_by, enqueued_at, finished_at, origin)
SELECT 'D0F98E7D7742609DC508D86BB7500914', CASE WHEN i % 7 = 0 THEN 'createWithdrawal' ELSE 'createOrder' END,
	   'Order #' || i, jsonb_build_object('amount', 100 + i % 900, 'currency', 'RUB'),
	   CASE WHEN i % 61 = 0 THEN 'refused' ELSE 'accepted' END, NULL, 1, 'postgres'::regrole, t,
	   CASE WHEN i BETWEEN 3600 AND 3780 THEN timestamptz 'now' - interval '8 h 55 min' + i % 60 * interval '1 s'
		ELSE t + interval '60 ms' END, 'x'
  FROM (SELECT i, timestamptz 'now' - interval '1 day' + i * interval '14.4 s'
			   + sin(i / 700.0) * interval '1 h' AS t FROM generate_series(1, 6000) AS i) AS o
 WHERE t BETWEEN timestamptz 'now' - interval '1 day' AND timestamptz 'now' - interval '1 min' ORDER BY t;
INSERT INTO tegro_event (event, event_no, outbox_id, claim_no, nonce, body_sha256, started_at, ended_at, outcome, http_status, message)
SELECT 'send', 2, id, 2, 1, '', finished_at - ms * interval '1 ms', finished_at,
	   CASE WHEN state = 'refused' THEN 'refused' WHEN id % 150 = 0 THEN 'unknown' ELSE 'answered' END, 200,
	   CASE WHEN state = 'refused'
		THEN 'Tegro refused createOrder: It says: "Wrong param amount". (HTTP 200; connection kept alive, first byte 5.0 ms, total 5.1 ms)'
		WHEN id % 150 = 0
		THEN 'the outcome of createOrder is unknown: The connection was lost before an answer came, while waiting for the answer. (connection kept alive, total 1.5 ms)' END
  FROM (SELECT *, exp(3.3 + 0.5 * sin(id) + 0.4 * sin(id * 1.7) + CASE WHEN id % 90 = 0 THEN 2.6 ELSE 0 END) AS ms
		  FROM tegro_outbox) AS o;
INSERT INTO tegro_event (event, event_no, outbox_id, claim_no, nonce, body_sha256, started_at, ended_at, outcome, message)
SELECT 'send', 1, id, 1, 1, '', enqueued_at, enqueued_at + interval '3 s', 'not sent',
	   'could not reach the Tegro API: Failed to connect to tegro.money port 443 after 3006 ms: Timeout was reached, while connecting; nothing was sent. (name lookup 0.1 ms, total 3007.0 ms)'
  FROM tegro_outbox WHERE finished_at > enqueued_at + interval '1 min';
INSERT INTO tegro_outbox (shop_id, method, reference, params, state, next_at, attempts, enqueued_by, enqueued_at, unknown_since, origin, message)
VALUES ('D0F98E7D7742609DC508D86BB7500914', 'createWithdrawal', 'salary 8', '{"amount": 90000, "currency": "RUB"}', 'review', NULL, 1,
		'postgres'::regrole, now() - interval '3 h', now() - interval '3 h', 'x', 'not found until the review deadline; resolve it with tegro_resolve'),
	   ('D0F98E7D7742609DC508D86BB7500914', 'createOrder', 'waits', '{"amount": 12.5}', 'ready', 'infinity', 0,
		'postgres'::regrole, now() - interval '2 min', NULL, 'x', NULL);
});
my $page = $report->('');
$seen = look($page, width => 1000);
check($seen, 'desk');
is($seen->{title}, 'Tegro outbox', 'desk: the title');
like($seen->{text}, qr/In review\s+1\s+a person decides/, 'desk: one is in review');
like($seen->{text}, qr/Request \d+: payout salary 8/, 'desk: it is shown');
like($seen->{text}, qr/SELECT tegro_resolve\(\d+, 'resend', '…'\);/, 'desk: with what to do');
like($seen->{text}, qr/Requests that were not finished: at most 1\d\d, now 2\./, 'desk: the backlog');
like($seen->{text}, qr/20 ms to 50 ms\s+\d,\d{3}/, 'desk: times');
like($seen->{text}, qr/refused\s*HTTP 200\s*Tegro refused createOrder: It says: "Wrong param amount"\.\s*last at/,
	'desk: what failed');
cmp_ok($seen->{bars}, '>', 96, 'desk: bars');
is($seen->{background}, 'rgb(246, 247, 249)', 'desk: light');
like($seen->{text}, qr/durability\s+error: fsync is off: /, 'desk: what the doctor finds');
like($seen->{text}, qr/review\s+warning: Requests in review: 1 /, 'desk: what it warns of');
like($seen->{text}, qr/All is well with: .*\bdelivery\b/, 'desk: and what is well');
take_picture($page, 'report-light', 900, 1400);

$seen = look($page, width => 1000, dark => 1);
check($seen, 'dark');
is($seen->{background}, 'rgb(17, 22, 29)', 'dark: it is');
take_picture($page, 'report-dark', 900, 1400, dark => 1);

$seen = look($page);
check($seen, 'phone');
is($seen->{room}, 390, 'phone: as wide');
take_picture($page, 'report-phone', 390, 1400);

# --- Texts that would be more --------------------------------------------------------

$node->safe_psql('postgres', q{
CREATE TABLE attack (text text);
INSERT INTO attack VALUES
	('<script>parent.attacked = 1</script>'), ('"><img src=x onerror=parent.attacked=1>'), (''' onmouseover=''x'),
	('</pre></article></main></style><h2>no</h2>'), ('<!--'), ('-->'), (']]>'), ('<![CDATA['), ('&lt;b&gt;&#60;i&#62;&amp;'),
	('</title></head>'), ('</script>'), ('<svg onload=x>'), ('{{7*7}}'), (E'a\u202eb\u0001\u0085\u200b\ufeff'),
	(repeat('x', 5000)), (repeat('ё', 5000)), ('javascript:x');
INSERT INTO tegro_outbox (shop_id, method, reference, params, state, next_at, attempts, enqueued_by, enqueued_at, origin, message)
SELECT left(text, 1000), 'createWithdrawal', left(text, 1000), jsonb_build_object('amount', text, 'currency', text), 'review', NULL, 1,
	   'postgres'::regrole, now() - interval '1 h', 'x', text
  FROM attack;
INSERT INTO tegro_event (event, event_no, outbox_id, claim_no, nonce, body_sha256, started_at, ended_at, outcome, message)
SELECT 'send', 1, id, 1, 1, '', now() - interval '1 h', now(), left(message, 1000), message FROM tegro_outbox WHERE state = 'review';
});
# a notification, too, may say what its sender likes
$node->safe_psql('postgres', q{
INSERT INTO tegro_notification (shop_id, order_id, status, test, state, amount, currency, fields, role, origin, message)
SELECT left(text, 1000), left(text, 1000), '1', false, 'review', 1, text, '{}', 'postgres'::regrole, 'x', text FROM attack});
$node->safe_psql('postgres', 'CREATE DATABASE "<b>&amp;"');
$page = $report->('');
$seen = look($page);
check($seen, 'attacked');
like($seen->{text}, qr/Request \d+: payout \Q$_\E/, "attacked: shown as it is: $_")
  foreach '<script>parent.attacked = 1</script>', '"><img src=x onerror=parent.attacked=1>', '<!--', '&lt;b&gt;&#60;i&#62;&amp;';
like($seen->{text}, qr/review\s+[\d: -]+\s+17\b/, 'attacked: notifications are counted');
like($seen->{text}, qr/Notification \d+: order \Q$_\E/, "attacked: a notification, as it is: $_")
  foreach '<script>parent.attacked = 1</script>', '"><img src=x onerror=parent.attacked=1>', '<!--';
like($seen->{text}, qr/SELECT tegro_retry_notification\(\d+\);/, 'attacked: with what to do');
like($seen->{text}, qr/a\\u202eb\\u0001\\u0085\\u200b\\ufeff/, 'attacked: what is not seen is shown');
is($node->safe_psql('<b>&amp;', 'CREATE EXTENSION tegro; SELECT tegro_report() ~ \'Database &#x3c;b&#x3e;&#x26;amp;,\''),
	't', 'the database has such a name');

# another schema is named in the commands
$node->safe_psql('<b>&amp;', q{DROP EXTENSION tegro; CREATE SCHEMA "p<a>y"; CREATE EXTENSION tegro SCHEMA "p<a>y";
INSERT INTO "p<a>y".tegro_outbox (shop_id, method, reference, params, state, next_at, enqueued_by, origin)
VALUES ('s', 'createOrder', 'r', '{}', 'review', NULL, 'postgres'::regrole, 'x')});
$seen = look($node->safe_psql('<b>&amp;', 'SELECT "p<a>y".tegro_report()'));
check($seen, 'schema');
like($seen->{text}, qr/SELECT "p<a>y"\.tegro_resolve\(1, 'accepted', '…'\);/, 'schema: it is named');

# --- Other encodings, other times ----------------------------------------------------

$node->safe_psql('postgres', q{CREATE DATABASE koi TEMPLATE template0 ENCODING 'KOI8R' LOCALE 'C'});
$node->safe_psql('postgres', q{CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'});
foreach my $database ('koi', 'ascii')
{
	$node->safe_psql($database, q{CREATE EXTENSION tegro;
SET client_encoding = UTF8;
INSERT INTO tegro_outbox (shop_id, method, reference, params, state, next_at, enqueued_by, origin)
VALUES ('s', 'createOrder', 'Заказ', '{}', 'review', NULL, 'postgres'::regrole, 'x')});
	my $reference = $database eq 'koi' ? 'Заказ' : '\xd0\x97\xd0\xb0';
	$seen = look($node->safe_psql($database, 'SELECT tegro_report()'));
	check($seen, $database);
	like($seen->{text}, qr/order \Q$reference\E/, "$database: a text in its encoding");
}

# A role's name is in the encoding of the database that it was made in: here a
# byte that begins a character of four bytes in UTF-8, and is the last.
$node->safe_psql('koi', q{SET client_encoding = UTF8; CREATE ROLE "Ж"});
$seen = look($node->safe_psql('postgres', q{
DO $$
DECLARE name name := (SELECT rolname FROM pg_roles WHERE rolname::bytea = '\xf6');
BEGIN
	EXECUTE format('GRANT EXECUTE ON FUNCTION tegro_report(timestamptz) TO %I', name);
	EXECUTE format('GRANT SELECT ON tegro_outbox, tegro_event TO %I', name);
	EXECUTE format('SET ROLE %I', name);
END $$;
SELECT tegro_report()}));
like($seen->{text}, qr/Only requests of role \Q\xf6\E, and/, "a name in another database's encoding");

done_testing();
