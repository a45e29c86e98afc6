# 006_credentials.pl: the credentials file: which line is taken, what is
# refused, and that keys go when they are taken out.
#
# Which key a call uses is seen from its signature, which the sandbox's journal
# has.  Files that must be refused are put in the
# file's place one after the other; what they contain must not show, nor where
# they are.  At last the memory of a backend is searched for a key before and
# after it was taken out of the file.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use Digest::SHA qw(hmac_sha256_hex);
use IO::Socket::UNIX;
use IPC::Run;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use TegroTest;

# In the keys and secrets of files that are refused.
use constant CANARY => 'CANARY-2b8e';

my $dir = PostgreSQL::Test::Utils::tempdir();

# Where the memory of processes may be read by their ancestors alone (Yama), the
# postmaster has to become a descendant of this process though it lets itself be
# orphaned: prctl(PR_SET_CHILD_SUBREAPER).
if ((-e '/proc/sys/kernel/yama/ptrace_scope' ? slurp_file('/proc/sys/kernel/yama/ptrace_scope') : 0)
	!= 0)
{
	my $prctl = { x86_64 => 157, aarch64 => 167 }->{ (POSIX::uname())[4] }
	  // BAIL_OUT('the number of prctl is not known here');
	syscall($prctl, 36, 1, 0, 0, 0) == 0 or BAIL_OUT("prctl failed: $!");
}

# With the mode of a credentials file, whatever it had.
sub write_file
{
	my ($path, $content, $mode) = @_;

	return spew($path, $content, $mode // 0600);
}

# Files whose name ends in ".foreign" look as if they belonged to another user:
# to make one that does takes root.
my $library = "$dir/owner.so";
compile(
	'-shared', '-fPIC', '-O1', '-Wall', '-Werror', '-o', $library,
	spew("$dir/owner.c", do { local $/ = undef; <DATA> }), '-ldl');

my $place = "$dir/where-the-keys-are";
my $file = "$place/credentials";
mkdir($place) or die "could not make $place: $!";

my $sandbox = sandbox(arguments => [ '--shop', 'TWO:key-of-two:secret-of-two' ]);
my $node = cluster(
	'credentials', $sandbox,
	conf => "tegro.credentials_file = '$file'\nlog_min_messages = debug5\n",
	environment => { LD_PRELOAD => $library });
my $admin = session($node);

# All that a caller was told, searched at the end.
my $told = '';

# In a session or, by role's name, in a new one.
sub ask
{
	my ($who, $sql) = @_;
	my $session = ref $who ? $who : session($node, user => $who);
	my $result = $session->query($sql);

	$told .= "$result->{out}\n$result->{err}\n";
	$session->close unless ref $who;
	return $result;
}

# The key with which a role signs for a shop, of those that are named key-*, or
# the SQLSTATE if nothing was sent.
my %known_keys;

sub key_of
{
	my ($who, $shop) = @_;
	my $params = defined $shop ? q{jsonb_build_object('shop_id', } . quote($shop) . ')' : q{'{}'};
	my $before = $sandbox->journal;
	my $result = ask($who, "SELECT tegro_call('balance', $params)");
	my @sent = $sandbox->journal;

	return $result->{sqlstate} if @sent == $before;
	# refused or not: the sandbox does not know most of these keys
	my ($signature) = $sent[-1]{authorization} =~ /^Bearer (\w+)$/;
	return key_by($signature, $sent[-1]{body});
}

sub key_by
{
	my ($signature, $body) = @_;

	foreach my $key (sort keys %known_keys)
	{
		return $key if hmac_sha256_hex($body, $key) eq $signature;
	}
	return '?';
}

sub quote
{
	my ($string) = @_;

	return q{'} . $string =~ s/'/''/gr . q{'};
}

# Puts a file in its place, whatever is there, as an editor does that renames.
sub put
{
	my ($content, $mode) = @_;

	rmdir($file) if -d $file && !-l $file;
	# keys in it are looked for by their signatures
	$known_keys{$_} = 1 foreach $content =~ /(key-[\w-]+)/g;
	write_file("$file.new", $content, $mode);
	rename("$file.new", $file) or die "could not rename: $!";
	return;
}

# Reloads, and waits until a session that is there has seen it.
my $reloads = 0;

sub reload
{
	my (@sessions) = @_;

	$reloads++;
	$node->append_conf('postgresql.conf', "test.reloads = '$reloads'");
	$node->reload;
	foreach my $session ($admin, @sessions)
	{
		wait_until(sub { $session->query('SHOW test.reloads')->{out} eq $reloads })
		  or die 'no reload';
	}
	return;
}

ask($admin, <<'SQL');
CREATE ROLE taker NOLOGIN;
GRANT EXECUTE ON FUNCTION tegro_call(text, jsonb), tegro_balance() TO taker;
CREATE ROLE one LOGIN IN ROLE taker;
CREATE ROLE two LOGIN IN ROLE taker;
CREATE ROLE "Role: \1" LOGIN IN ROLE taker;
CREATE ROLE cashiers NOLOGIN;
CREATE ROLE member LOGIN IN ROLE taker, cashiers;
CREATE ROLE aloof LOGIN NOINHERIT IN ROLE taker, cashiers;
GRANT taker TO aloof;
CREATE ROLE super_member LOGIN SUPERUSER IN ROLE cashiers
SQL
# its rights don't matter here, and NOINHERIT would take them away
ask($admin,
	'GRANT EXECUTE ON FUNCTION tegro_call(text, jsonb) TO aloof');


#
# Which line
#

{
	my @lines = ('A:one:key-1:s', 'A:*:key-2:s', '*:one:key-3:s', '*:*:key-4:s');

	put(join("\n", @lines) . "\n");
	is(key_of('one', 'A'), 'key-1', 'a line that names shop and role is for both');
	is(key_of('two', 'A'), 'key-2', '"*" is any role');
	is(key_of('one', 'B'), 'key-3', '"*" is any shop');
	is(key_of('two', 'B'), 'key-4', 'both may be "*"');
	is(key_of('one'), 'key-3', 'tegro.shop_id is meant where the parameters name none');

	put(join("\n", reverse @lines) . "\n");
	is(key_of('one', 'A'), 'key-3', 'of the lines that name the role, the first wins, not the one that fits best');
	is(key_of('two', 'A'), 'key-4', 'the same of those that fit any role');
	is(key_of('two', 'B'), 'key-4', 'and of the rest');

	put("A:one:key-1:s\nA:one:key-2:s");
	is(key_of('one', 'A'), 'key-1', 'the first of two alike wins; the last line needs no end');
	is(key_of('two', 'A'), 'TG006', 'no line, no key');
	is(key_of('one', 'a'), 'TG006', 'the case of a shop matters');
	is(key_of('one', 'A '), 'TG006', 'and so does each character of it');

	put(    "a\\:b\\\\c:Role\\: \\\\1:key-5:s\n"
		  . "x:*:key\\:with\\\\both:s\n"
		  . "y:*:key#6 ' \":s\\:\\\\\n");
	$known_keys{'key:with\\both'} = $known_keys{q{key#6 ' "}} = 1;
	is(key_of('Role: \\\\1', 'a:b\\c'),
		'key-5', 'colons and backslashes are escaped in shop and role');
	is(key_of('one', 'x'), 'key:with\\both', 'and in keys');
	is(key_of('one', 'y'), q{key#6 ' "}, '"#" and quotes in a line are nothing special');

	put("# A:*:key-7:s\r\n\r\n\n#\r\nA:*:key-8:s\r\n# end\r\n");
	is(key_of('one', 'A'),
		'key-8', 'comments, empty lines and the line ends of Windows are passed over');

	put("A:*:key-9:\n");
	is(key_of('one', 'A'), 'key-9', 'the secret key may be empty');

	put(join('', map { "S$_:*:key-of-$_:s\n" } 1 .. 10_000));
	is(key_of('one', 'S10000'), 'key-of-10000', 'a file may have ten thousand lines');
	%known_keys = ();

	put('#' x (1024 * 1024 - 10) . "\nA:*:key-1:");
	is(-s $file, 1024 * 1024 + 1, 'a file of 1 MB and a byte');
	is(key_of('one', 'A'), 'TG006', 'is too large');
	put('#' x (1024 * 1024 - 11) . "\nA:*:key-1:");
	is(key_of('one', 'A'), 'key-1', 'one of 1 MB is not');

	foreach my $mode (0400, 0600, 0700)
	{
		put("A:*:key-1:s\n", $mode);
		is(key_of('one', 'A'), 'key-1', sprintf('mode %04o is fine', $mode));
	}
}


#
# Membership
#

{
	put("A:no_such_role:key-0:s\nA:cashiers:key-1:s\n");
	is(key_of('member', 'A'), 'key-1', 'a line of a role is for its members');
	is(key_of('aloof', 'A'), 'key-1', 'also for those that do not inherit');
	is(key_of('one', 'A'), 'TG006', 'and for nobody else');
	is(key_of($admin, 'A'), 'TG006', 'not for superusers, who are no members');
	is(key_of('super_member', 'A'), 'key-1', 'unless they were made members');

	# who can grant a role does not thereby choose the key of another
	put("A:cashiers:key-1:s\nA:*:key-2:s\n*:super_member:key-3:s\nA:member:key-4:s\n");
	is(key_of('member', 'A'), 'key-4', 'a line that names the role comes before those of its groups');
	is(key_of('super_member', 'A'), 'key-3', 'for a superuser as well, and if it is for any shop');
	is(key_of('aloof', 'A'), 'key-1', 'other members have the key of the group');
	put("A:cashiers:key-1:s\n");

	my $session = session($node, user => 'one');
	is(key_of($session, 'A'), 'TG006', 'a role without a line');
	ask($admin, 'GRANT cashiers TO one');
	is(key_of($session, 'A'), 'key-1', 'has one when it becomes a member, at once');
	ask($admin, 'REVOKE cashiers FROM one');
	is(key_of($session, 'A'), 'TG006', 'and none when it is no longer one');
	$session->close;
}


#
# Several shops in one database
#

{
	put(SHOP_ID . ':*:' . API_KEY . ":s\nTWO:*:key-of-two:s\n");
	$known_keys{ +API_KEY } = 1;
	$sandbox->begin;
	my $session = session($node, user => 'one');
	my $result = ask($session, <<'SQL');
SELECT tegro_balance();
SELECT tegro_call('balance', '{"shop_id": "TWO"}');
SET tegro.shop_id = 'TWO';
SELECT tegro_balance();
RESET tegro.shop_id;
SELECT tegro_balance()
SQL
	is(scalar(() = $result->{out} =~ /"success"/g), 4, 'several shops are served in one session');
	is( join(', ',
			map { "$_->{params}{shop_id} " . key_by($_->{authorization} =~ /(\w+)$/, $_->{body}) }
			  $sandbox->journal),
		join(', ',
			SHOP_ID . ' ' . API_KEY,
			'TWO key-of-two',
			'TWO key-of-two',
			SHOP_ID . ' ' . API_KEY),
		'each with its own key');
	is(ask($session, q{SELECT tegro_call('balance', '{"shop_id": "THREE"}')})->{sqlstate},
		'TG006', 'a shop without a line has no key');
	is(scalar($sandbox->journal), 4, 'and nothing is sent for it');
	$session->close;
}


#
# Reload
#

{
	put("A:*:key-1:s\n");
	my $session = session($node, user => 'one');
	is(key_of($session, 'A'), 'key-1', 'a session takes a key from the file');
	put("A:*:key-2:s\nB:*:key-3:s\n");
	is(key_of($session, 'A'), 'key-1', 'it keeps it until the configuration is reloaded');
	reload($session);
	is(key_of($session, 'A'), 'key-2', 'then it takes the new one');
	is(key_of($session, 'B'), 'key-3', 'and sees a new line');

	put("B:*:key-3:s\n");
	reload($session);
	is(key_of($session, 'A'), 'TG006', 'a key that was taken out is not used after a reload');
	is(key_of($session, 'B'), 'key-3', 'the others are');

	put("B:*:key-3:s\n", 0644);
	reload($session);
	is(key_of($session, 'B'), 'TG006', 'nor is one whose file is refused now');
	put("B:*:key-3:s\n");
	is(key_of($session, 'B'), 'key-3', 'a file that was mended is used without another reload');

	unlink($file);
	reload($session);
	is(key_of($session, 'B'), 'TG006', 'nor one whose file is gone');

	# a file elsewhere: the setting changes
	write_file($node->data_dir . '/relative-credentials', "A:*:key-in-data-directory:s\n");
	$known_keys{'key-in-data-directory'} = 1;
	ask($admin, q{ALTER SYSTEM SET tegro.credentials_file = 'relative-credentials'});
	reload($session);
	is(key_of($session, 'A'),
		'key-in-data-directory', 'a relative name is taken from the data directory');
	is(key_of('one', 'A'), 'key-in-data-directory', 'by new sessions, too');

	ask($admin, q{ALTER SYSTEM SET tegro.credentials_file = ''});
	reload($session);
	my $result = ask($session, 'SELECT tegro_balance()');
	is($result->{sqlstate}, 'TG006', 'without a file and a key of the session there is no key');
	like($result->{hint}, qr/^Name a file .* in tegro\.credentials_file/, 'the error names the setting of the file');
	ask($admin, 'GRANT SET ON PARAMETER tegro.api_key TO one');
	is( ask($session, q{SET tegro.api_key = 'key-of-the-session'; SELECT tegro_balance()})
		  ->{sqlstate},
		'TG001',
		"the session's own key is used then (and is not the provider's)");
	$result = ask($session, q{SET tegro.shop_id = ''; SELECT tegro_balance()});
	is($result->{sqlstate}, 'TG006', 'without a shop there is no call');
	like($result->{hint}, qr/tegro\.shop_id.*"shop_id"/, 'the error names both ways to give one');
	ask($admin, 'ALTER SYSTEM RESET tegro.credentials_file');
	reload($session);
	$session->close;

	# The session's own key comes first.
	put("A:*:key-1:s\n");
	$known_keys{'key-of-the-session'} = 1;
	$session = session($node, user => 'one');
	ask($session, q{SET tegro.api_key = 'key-of-the-session'});
	is(key_of($session, 'A'), 'key-of-the-session', "the session's own key comes before the file");
	ask($session, 'RESET tegro.api_key');
	is(key_of($session, 'A'), 'key-1', 'which is used again without it');
	$session->close;
	ask($admin, 'REVOKE SET ON PARAMETER tegro.api_key FROM one');
}


#
# What is refused
#

{
	my $good = "*:*:" . CANARY . "-api:" . CANARY . "-secret\n";
	my $bad_line = CANARY . ':*:' . CANARY;

	# name => how to make it, what the detail must say, what the hint
	my @cases = (
		(   map {
				my $mode = $_;
				my $text = sprintf('%04o', $mode);
				[
					"a file of mode $text",
					sub { put($good, $mode) },
					qr/with mode $text/,
					qr/chmod 0600/
				]
			} 0644,
			0640, 0604, 0620, 0602, 0610, 0601, 0660, 0666,
			0777),
		[
			'a symbolic link',
			sub {
				put('');
				unlink($file);
				symlink(write_file("$dir/good", $good), $file) or die $!;
			},
			qr/symbolic link/,
			qr/the file itself/
		],
		[
			'a symbolic link to nothing',
			sub {
				put('');
				unlink($file);
				symlink("$dir/nothing", $file) or die $!;
			},
			qr/symbolic link/,
			qr/the file itself/
		],
		[
			'a FIFO',
			sub {
				put('');
				unlink($file);
				POSIX::mkfifo($file, 0600) or die $!;
			},
			qr/not a regular file/,
			qr/regular file/
		],
		[
			'a directory',
			sub {
				put('');
				unlink($file);
				mkdir($file, 0700) or die $!;
			},
			qr/not a regular file/,
			qr/regular file/
		],
		[
			'no file',
			sub {
				put('');
				unlink($file);
			},
			qr/could not be opened: No such file/,
			qr/[Cc]reate the file/
		],
		[
			'a file of mode 0000',
			sub { put($good, 0000) },
			qr/could not be opened: Permission denied/,
			qr/^Give it to the server's user \(chown \d+\) with mode 0600/
		],
		[
			'a file of 1 GB',
			sub {
				put($good);
				truncate($file, 1024 * 1024 * 1024) or die $!;
			},
			qr/larger than 1 MB/,
			qr/a line for each shop/
		],
		[ 'a file with a NUL', sub { put("$good\0$good") }, qr/NUL/, qr/plain text/ ],
		[ 'a file of NULs', sub { put("\0" x 100) }, qr/NUL/, qr/plain text/ ],
		[
			'a file in UTF-16',
			sub { put(join("\0", split(//, $good)) . "\0") },
			qr/NUL/,
			qr/plain text/
		],
		[
			'a line of three fields',
			sub { put("#\n\n$good$bad_line\n") },
			qr/^Line 4 does not have the form/,
			qr/\\:/
		],
		[
			'a line of five fields',
			sub { put("$good$bad_line:a:b\n") },
			qr/^Line 2 does not have the form/,
			qr/\\:/
		],
		[
			'a line of one field',
			sub { put("#\r\n#\r\n" . CANARY) },
			qr/^Line 3 does not have the form/,
			qr/\\:/
		],
		[
			'a line of spaces',
			sub { put("$good   \n") },
			qr/^Line 2 does not have the form/,
			qr/\\:/
		],
		[
			'a line without an API key',
			sub { put("*:*::" . CANARY . "\n") },
			qr/^Line 1 does not have the form/,
			qr/\\:/
		],
		[
			'a line whose last colon is escaped',
			sub { put("*:*:" . CANARY . "\\:" . CANARY . "\n") },
			qr/^Line 1 does not have the form/,
			qr/\\:/
		],
		[
			'a file of another kind',
			sub {
				put(join('', map { chr } 1 .. 255) . CANARY);
			},
			qr/^Line \d+ does not have the form/,
			qr/\\:/
		],
		[ 'an empty file', sub { put('') }, qr/No line of the credentials file fits both\.$/, qr/Add the line/ ],
		[
			'a line with a blank before the shop',
			sub { put(" *:*:" . CANARY . ":" . CANARY . "\n") },
			qr/No line .* one would but for blanks/,
			qr/Add the line/
		],
		[
			'a line with a blank behind the role',
			sub { put("*:one\t:" . CANARY . ":" . CANARY . "\n") },
			qr/No line .* one would but for blanks/,
			qr/Add the line/
		],
		[
			'a file of comments',
			sub { put('# ' . CANARY . "\n#$good") },
			qr/No line/,
			qr/Add the line/
		]);

	foreach my $case (@cases)
	{
		my ($name, $make, $detail, $hint) = @$case;
		$make->();
		my $session = session($node, user => 'one');
		foreach my $call ('tegro_balance()', q{tegro_call('balance')})
		{
			my $result = ask($session, "SELECT $call");

			is($result->{sqlstate}, 'TG006', "$name: $call is refused");
			like($result->{detail}, $detail, "$name: the error says why");
			like($result->{hint}, $hint, "$name: and what to do");
			cmp_ok(own_ms($result), '<', 5000, "$name: at once");
		}
		$session->close;
	}

	# what to do for a secret key
	foreach my $case (
		[ 'a file without a line', sub { put('') }, qr/^Add the line shop_id:role:api_key:secret_key to the file/ ],
		[
			'a line without a secret key',
			sub { put('*:*:' . CANARY . ":\n") },
			qr/^Write it as the fourth field of the shop's line, shop_id:role:api_key:secret_key,/
		])
	{
		my ($name, $make, $hint) = @$case;
		$make->();
		my $session = session($node);
		my $result = ask($session, q{SELECT tegro_payment_url('{"amount": 1, "currency": "RUB", "order_id": "1"}')});

		is($result->{sqlstate}, 'TG006', "$name: a link is refused");
		like($result->{hint}, $hint, "$name: and what to do is said");
		$session->close;
	}

	# a file that one can't make as an ordinary user
	foreach my $case (
		[ "another user's file", '/etc/passwd', qr/belongs to user 0 /, qr/chown/ ],
		[
			'a file that another user owns and has closed',
			"$dir/keys.foreign",
			qr/belongs to user \d+ with mode 0600/,
			qr/chown \d+/
		],
		[ 'a device', '/dev/zero', qr/not a regular file/, qr/regular file/ ],
		[ 'the null device', '/dev/null', qr/not a regular file/, qr/regular file/ ],
		[ 'a socket', "$dir/socket", qr/could not be opened|not a regular file/, qr/./ ],
		[
			'a file below a file', "/etc/passwd/credentials",
			qr/could not be opened: Not a directory/, qr/./
		],
		[ 'a file of the kernel', '/proc/self/environ', qr/./, qr/./ ],
		[ 'a name that is too long', "$dir/" . 'x' x 5000, qr/could not be opened/, qr/./ ])
	{
		my ($name, $path, $detail, $hint) = @$case;

		write_file($path, $good) if $path =~ /foreign/;
		my $socket = $path =~ /socket/ ? IO::Socket::UNIX->new(Local => $path, Listen => 1) : undef;
		ask($admin, 'ALTER SYSTEM SET tegro.credentials_file = ' . quote($path));
		reload();
		my $result = ask('one', 'SELECT tegro_balance()');
		is($result->{sqlstate}, 'TG006', "$name is refused");
		like($result->{detail}, $detail, "$name: the error says why");
		like($result->{hint}, $hint, "$name: and what to do");
		cmp_ok(own_ms($result), '<', 5000, "$name: at once");
		unlike($result->{err}, qr/\Q$path\E/, "$name: the error does not show where it is");
	}
	# so that the library which makes a file foreign proves something
	write_file("$dir/keys.own", "A:*:key-1:s\n");
	ask($admin, 'ALTER SYSTEM SET tegro.credentials_file = ' . quote("$dir/keys.own"));
	reload();
	is(key_of('one', 'A'), 'key-1',
		"a file like the other user's is taken where the user is right");
	ask($admin, 'ALTER SYSTEM RESET tegro.credentials_file');
	reload();

	# what an editor may put in front of the first line
	put("\xEF\xBB\xBFA:*:key-1:s\n");
	is(key_of('one', 'A'), 'key-1', 'a byte order mark is passed over');

	# a session that reads a huge file again and again
	put($good);
	truncate($file, 1024 * 1024 * 1024) or die $!;
	my $session = session($node, user => 'one');
	ask($session, 'SELECT tegro_balance()') foreach 1 .. 5;
	cmp_ok(vm_hwm_kb($session->pid), '<', 400 * 1024, 'a huge file takes no memory');
	# and many bad ones
	put("#\n" . $bad_line);
	ask($session, 'SELECT tegro_balance()');
	my $before = descriptors($session->pid);
	ask($session, 'SELECT tegro_balance()') foreach 1 .. 20;
	is(descriptors($session->pid), $before, 'a file that is refused leaves nothing open');
	put("A:*:key-1:s\n");
	is(key_of($session, 'A'), 'key-1', 'after all that, a good file is taken');
	$session->close;
}

# Nothing of it shows, but in the log, where the administrator finds which file.
{
	my $log = slurp_file($node->logfile);

	is(scalar(grep { /CANARY/ } split(/\n/, $told)), 0, 'no error showed what a file contains');
	is(scalar(grep { /where-the-keys-are/ } split(/\n/, $told)), 0, 'nor where it is');
	is(scalar(grep { /CANARY/ } split(/\n/, $log)), 0, 'the log does not show it either');
	ok($log =~ /DETAIL:  File "\Q$file\E": Line 4 does not have the form/, 'but which file it is');
}
{
	my $session = session($node, user => 'one');
	foreach my $look (
		'SHOW tegro.credentials_file',
		q{SELECT current_setting('tegro.credentials_file')},
		q{SELECT * FROM pg_settings WHERE name ~ 'tegro'},
		'SHOW ALL',
		'SELECT * FROM pg_file_settings',
		q{SELECT pg_show_all_file_settings()})
	{
		my $result = ask($session, $look);
		unlike("$result->{out}$result->{err}",
			qr/where-the-keys-are/, "an ordinary role does not see the path by $look");
	}
	$session->close;
	is(ask($admin, 'SHOW tegro.credentials_file')->{out}, $file, 'a superuser does');
}


#
# A key that changes while calls run
#

{
	ask($admin, <<'SQL');
CREATE TABLE outcome (n bigserial, state text);
GRANT INSERT ON outcome TO one;
GRANT USAGE ON SEQUENCE outcome_n_seq TO one;
CREATE FUNCTION try_balance() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tegro_balance();
	RETURN 'answered';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$
SQL
	my %content = (
		right => SHOP_ID . ':*:' . API_KEY . ":s\n",
		wrong => SHOP_ID . ":*:key-that-is-wrong:s\n");
	put($content{right});
	$known_keys{'key-that-is-wrong'} = 1;
	reload();
	$sandbox->begin;
	my $script = write_file("$dir/try.sql", "INSERT INTO outcome (state) SELECT try_balance();\n");
	my $run = IPC::Run::start(
		[
			'pgbench', '-n', '-c', 4, '-j', 2, '-T', 300, '-f', $script,
			$node->connstr('postgres') . ' user=one'
		],
		'<',
		\undef,
		'>',
		"$dir/pgbench.log",
		'2>&1',
		IPC::Run::timeout(400));
	my $count = sub {
		my ($state) = @_;
		return $admin->query("SELECT count(*) FROM outcome WHERE state = '$state'")->{out};
	};
	my $turns = 0;
	foreach my $which ('right', 'wrong', 'right', 'wrong', 'right')
	{
		my $state = $which eq 'right' ? 'answered' : 'TG001';
		my $before = $count->($state);

		put($content{$which});
		reload();
		$turns++ if wait_until(sub { $count->($state) >= $before + 20 });
	}
	is($turns, 5, 'sessions at work take up a key that is changed, five times');

	# after the last change and what was under way then, there is only one key
	my $from = $admin->query('SELECT max(n) + 8 FROM outcome')->{out};
	wait_until(sub { $admin->query("SELECT count(*) FROM outcome WHERE n > $from")->{out} > 20 });
	is($admin->query("SELECT DISTINCT state FROM outcome WHERE n > $from")->{out},
		'answered', 'each session has taken it up');
	is( $admin->query(q{SELECT string_agg(DISTINCT state, ' ' ORDER BY state) FROM outcome})->{out},
		'TG001 answered',
		'no call met a file that was half there');
	$run->signal('INT');
	$run->finish;

	my %by;
	$by{ key_by($_->{authorization} =~ /(\w+)$/, $_->{body}) }++ foreach $sandbox->journal;
	is( join(' ', sort keys %by),
		join(' ', 'key-that-is-wrong', API_KEY),
		'each request was signed with the one key or the other');

	# a call that is under way when its key goes
	put($content{right});
	my $session = session($node, user => 'one');
	key_of($session, SHOP_ID);
	$sandbox->begin;
	$sandbox->fault('balance', 'hold', ms => 600);
	$session->send('SELECT tegro_balance()');
	wait_until(sub { return $sandbox->journal(method => 'balance') > 0; });
	put("#\n");
	reload();
	is($session->wait->{sqlstate},
		'', 'a call that is under way ends as if its key were still there');
	is(key_of($session, SHOP_ID), 'TG006', 'the next has none');
	$session->close;
}


#
# Memory
#

# How often any of some strings is in what a process may write to.
sub found_in_memory
{
	my ($pid, @strings) = @_;
	my $pattern = join('|', map { quotemeta } @strings);
	my $found = 0;

	open(my $memory, '<:raw', "/proc/$pid/mem") or die "could not open the memory of $pid: $!";
	foreach my $line (split(/\n/, slurp_file("/proc/$pid/maps")))
	{
		my ($from, $to) = $line =~ /^([0-9a-f]+)-([0-9a-f]+) rw/ or next;
		my ($at, $end, $rest) = (hex($from), hex($to), '');

		while ($at < $end)
		{
			my $chunk = '';
			sysseek($memory, $at, 0) or last;
			# pages that are not there can't be read
			my $got = sysread($memory, $chunk, $end - $at < 4 << 20 ? $end - $at : 4 << 20);
			last unless $got;
			$at += $got;
			$chunk = $rest . $chunk;
			$found++ while $chunk =~ /$pattern/g;
			# what straddles two chunks, but not counted twice
			$rest = substr($chunk, -60);
			$rest =~ s/.*(?:$pattern)//s;
		}
	}
	close($memory);
	return $found;
}

{
	# nobody but the file brings these to the server
	my @secrets =
	  map { sprintf('%s-%08x%08x-%d', $_, rand(2**32), rand(2**32), $$) } qw(api secret);
	my $with = '# ' . "\n" . SHOP_ID . ":*:$secrets[0]:$secrets[1]\n";
	my $without = SHOP_ID . ':*:' . API_KEY . ":s\n";

	put($with);
	reload();
	foreach my $how (
		[ 'it is taken out of the file', sub { put($without) } ],
		[ 'the file is empty', sub { put('') } ],
		[ 'the file is refused', sub { put($with, 0644) } ],
		[ 'the file is gone', sub { unlink($file) } ],
		[ 'the file is malformed', sub { put("x\n") } ],
		[
			'another file is named',
			sub { ask($admin, q{ALTER SYSTEM SET tegro.credentials_file = 'relative-credentials'}) }
		])
	{
		my ($name, $take_out) = @$how;
		put($with);
		my $session = session($node, user => 'one');
		# signed, sent, refused and failed: wherever a copy might be left
		ask($session, q{SET tegro.timeout = '2s'; SELECT tegro_balance()});
		ask($session, q{SELECT tegro_call('balance')});
		$sandbox->fault('*', 'cut', bytes => 10, times => 3);
		ask($session, 'SELECT tegro_balance()');
		$sandbox->clear_faults;
		cmp_ok(found_in_memory($session->pid, $secrets[0]),
			'>=', 1, 'a key that is in use is in the memory of its backend');
		cmp_ok(found_in_memory($session->pid, $secrets[1]), '>=', 1, 'and so is the secret key');

		$take_out->();
		reload($session);
		ask($session, 'SELECT tegro_balance()');
		is(found_in_memory($session->pid, @secrets),
			0, "after $name, a reload and the next call, they are not");
		$session->close;
	}
	ask($admin, 'ALTER SYSTEM RESET tegro.credentials_file');
	reload();

	# the same of the process that delivers the outbox
	my $number = 0;
	my $deliver = sub {
		my $id = ask(
			$admin,
			sprintf(
				q{SELECT tegro_enqueue('createOrder', '{"order_id": "%d", "currency": "RUB", "amount": 1}')},
				++$number))->{out};
		wait_until(
			sub {
				ask($admin, "SELECT count(ended_at) FROM tegro_event WHERE outbox_id = $id")
				  ->{out} > 0;
			}) or die 'nothing was delivered';
		return ask($admin,
			q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'tegro %' AND datname = 'postgres'}
		)->{out};
	};
	put($with);
	reload();
	my $worker = $deliver->();
	like($worker, qr/^\d+$/, 'there is a process that delivers');
	cmp_ok(found_in_memory($worker, $secrets[0]), '>=', 1, 'a key that is in use is in its memory');
	put($without);
	reload();
	is($deliver->(), $worker, 'it goes on after a reload');
	is(found_in_memory($worker, @secrets), 0,
		'and the key that was taken out is not in its memory');

	# a file that is read but refused must not leave its keys either
	put($with . "malformed\n");
	my $session = session($node, user => 'one');
	ask($session, 'SELECT tegro_balance()');
	is(found_in_memory($session->pid, @secrets),
		0, 'a file that is refused leaves no key in memory');
	put("$with\0");
	ask($session, 'SELECT tegro_balance()');
	is(found_in_memory($session->pid, @secrets), 0, 'nor one with a NUL');
	$session->close;
}

# A session's own key goes to the process that carries out its payout, through
# shared memory, and must not stay there.  (In the session itself it may: what a
# setting was, PostgreSQL frees, and does not zero.)  As a bind parameter, for
# the text of a statement is in shared memory, for pg_stat_activity.
{
	my $key = sprintf('session-%08x%08x-%d', rand(2**32), rand(2**32), $$);
	my $script = write_file("$dir/payout.sql", <<'SQL');
SELECT set_config('tegro.api_key', :key, false);
SELECT count(tegro_create_withdrawal('{"payment_id": "of-a-session", "currency": "RUB", "account": "a", "amount": 1}'));
SQL
	my ($out, $err) = ('', '');

	$sandbox->journal;
	IPC::Run::run(
		[
			'pgbench', '-n', '-M', 'extended', '-t', 1, '-D', "key=$key", '-f', $script,
			$node->connstr('postgres')
		],
		'<',
		\undef,
		'>',
		\$out,
		'2>',
		\$err);
	my ($sent) = grep { $_->{body} =~ /of-a-session/ } $sandbox->journal;
	is( $sent->{authorization},
		'Bearer ' . hmac_sha256_hex($sent->{body} // '', $key),
		"a session's own key signs its payout, in another process");
	is(found_in_memory($admin->pid, $key),
		0, "and is neither in shared memory nor in another session's");
	my @segments = glob('/dev/shm/PostgreSQL.*');
	is(scalar(grep { index(slurp_file($_), $key) >= 0 } grep { -r } @segments),
		0, 'nor in a segment that was left');
	unlike(slurp_file($node->logfile), qr/$key/, 'nor in the log');
}

#
# Who may set a key, and where
#

# The files of the following have keys for these two roles.
my @setters = qw(one two);
my $canary = CANARY . '-set';

# Ways to set a parameter for a session, and to store it.
my %ways = (
	'SET' => "SET %s = '$canary'",
	'SET LOCAL' => "BEGIN; SET LOCAL %s = '$canary'; ROLLBACK",
	'set_config' => "SELECT length(set_config('%s', '$canary', false))",
	'a block' => "DO \$\$ BEGIN SET %s = '$canary'; END \$\$");
my %stores = (
	'ALTER ROLE' => "ALTER ROLE one SET %s = '$canary'",
	'ALTER ROLE of oneself' => "ALTER ROLE CURRENT_USER SET %s = '$canary'",
	'ALTER ROLE, an empty key' => 'ALTER ROLE CURRENT_USER SET %s = \'\'',
	'ALTER ROLE IN DATABASE' => "ALTER ROLE CURRENT_USER IN DATABASE shop SET %s TO '$canary'",
	'ALTER ROLE ALL' => "ALTER ROLE ALL SET %s = '$canary'",
	'ALTER DATABASE' => "ALTER DATABASE shop SET %s = '$canary'",
	'CREATE FUNCTION' =>
	  "CREATE FUNCTION own.f() RETURNS int LANGUAGE sql SET %s = '$canary' AS 'SELECT 1'",
	'CREATE FUNCTION, its body not checked' =>
	  "SET check_function_bodies = off; CREATE FUNCTION own.f() RETURNS int LANGUAGE sql SET %s = '$canary' AS 'SELECT 1'",
	'CREATE PROCEDURE' => "CREATE PROCEDURE own.p() LANGUAGE sql SET %s = '$canary' AS 'SELECT 1'",
	'ALTER FUNCTION' => "ALTER FUNCTION own.made() SET %s = '$canary'",
	'ALTER ROUTINE' => "ALTER ROUTINE own.made() SET %s TO '$canary'");
my %stores_current = (
	'ALTER ROLE FROM CURRENT' => 'ALTER ROLE CURRENT_USER SET %s FROM CURRENT',
	'ALTER DATABASE FROM CURRENT' => 'ALTER DATABASE shop SET %s FROM CURRENT',
	'CREATE FUNCTION FROM CURRENT' =>
	  "CREATE FUNCTION own.f() RETURNS int LANGUAGE sql SET %s FROM CURRENT AS 'SELECT 1'",
	'ALTER FUNCTION FROM CURRENT' => 'ALTER FUNCTION own.made() SET %s FROM CURRENT');

# Where a catalog has the canary, or any setting with a key's name.
sub stored_keys
{
	return ask($admin, <<'SQL')->{out};
SELECT string_agg(c, ' ') FROM (SELECT setconfig FROM pg_db_role_setting UNION ALL SELECT proconfig FROM pg_proc) AS s (config),
	unnest(config) AS c WHERE c ~* '^tegro\.(api|secret)_key='
SQL
}

subtest 'keys are set by superusers and by grant, and stored by nobody' => sub {
	put(join('', map { SHOP_ID . ":$_:key-of-$_:secret-of-$_\n" } @setters));
	reload();
	ask($admin, 'CREATE DATABASE shop OWNER two');
	ask($admin, 'ALTER ROLE one CREATEROLE');
	# a schema for each, so that the statements are the same
	my $shop = session($node, database => 'shop');
	ask($shop, 'CREATE EXTENSION tegro');
	my $own = sub {
		my ($role) = @_;
		ask($shop, "DROP SCHEMA IF EXISTS own CASCADE; CREATE SCHEMA own AUTHORIZATION $role; "
			  . "CREATE FUNCTION own.made() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION own.made() OWNER TO $role");
	};

	foreach my $setter (@setters)
	{
		# a role that an injected statement runs as; the owner of the database
		my $number = $setter eq 'one' ? 96 : 97;
		my $who = $setter eq 'one' ? 'a role' : "a database's owner";

		$own->($setter);
		my $session = session($node, database => 'shop', user => $setter);
		foreach my $setting (qw(tegro.api_key tegro.secret_key))
		{
			my @passed;
			foreach my $way (sort keys %ways, keys %stores)
			{
				my $result = ask($session, sprintf($ways{$way} // $stores{$way}, $setting) . '; ROLLBACK');

				push @passed, $way if $result->{sqlstate} ne '42501';
			}
			is("@passed", '', "fault $number: $who cannot set $setting for a session, nor store it");
			local $ENV{PGOPTIONS} = "-c $setting=$canary";
			ok(!eval { session($node, user => $setter)->close; 1 }, "fault $number: ... nor bring it with the connection");
			like($@, qr/FATAL:  permission denied to set parameter "\Q$setting\E"/, 'which is refused');
		}
		$session->close;
		is(stored_keys(), '', "fault $number: nothing is stored");
		is(key_of($setter), "key-of-$setter", "fault $number: the next session signs with the file's key");
	}

	ask($admin, 'GRANT SET ON PARAMETER tegro.api_key, tegro.secret_key TO one, two');
	foreach my $setter (@setters, 'postgres')
	{
		$own->($setter);
		my $session = session($node, database => 'shop', user => $setter);
		foreach my $setting (qw(tegro.api_key tegro.secret_key))
		{
			my (@refused, @stored, @unclear);

			foreach my $way (sort keys %ways)
			{
				my $result = ask($session, sprintf($ways{$way}, $setting));
				# set_config() returns the value, which only superusers are shown
				push @refused, $way
				  unless $result->{sqlstate} eq ($way eq 'set_config' && $setter ne 'postgres' ? '42501' : '');
			}
			is("@refused", '', "$setter sets $setting for a session");
			foreach my $way (sort keys %stores, keys %stores_current)
			{
				my $result = ask($session, sprintf($stores{$way} // $stores_current{$way}, $setting));
				# another's role, all roles, another's database: PostgreSQL's rules
				# come first, and only superusers have a key that is shown to them
				my $may = $setter eq 'postgres'
				  || $way !~ /ROLE ALL|FROM CURRENT/ && !($way eq 'ALTER ROLE' && $setter eq 'two')
				  && !($way eq 'ALTER DATABASE' && $setter eq 'one');

				push @stored, $way if $result->{sqlstate} ne ($may ? '0A000' : '42501');
				push @unclear, $way
				  if $may && ($result->{message} ne qq{parameter "$setting" cannot be stored for a role, a database or a function}
					|| $result->{hint} !~ /tegro\.credentials_file/ || $result->{err} =~ /\Q$canary\E/);
			}
			is("@stored", '', "faults 96, 97: $setter stores $setting nowhere");
			is("@unclear", '', '... and the error says where keys belong, and not which it was');
			ask($session, "RESET $setting");
			foreach my $way ("ALTER ROLE CURRENT_USER RESET $setting", 'ALTER ROLE CURRENT_USER RESET ALL',
				"ALTER FUNCTION own.made() RESET $setting", $setter eq 'one' ? () : "ALTER DATABASE shop RESET $setting")
			{
				is(ask($session, $way)->{err}, '', "$way works for $setter");
			}
			local $ENV{PGOPTIONS} = "-c $setting=key-of-the-connection";
			$known_keys{'key-of-the-connection'} = 1;
			is(query($node, 'SELECT 1', user => $setter)->{out}, '1', 'a connection brings it');
			is(key_of($setter), 'key-of-the-connection', 'which signs then')
			  if $setting eq 'tegro.api_key' && $setter ne 'postgres';
		}
		$session->close;
	}
	is(stored_keys(), '', 'faults 96, 97: nothing is stored');

	# the configuration file is another place
	is(ask($admin, "ALTER SYSTEM SET tegro.api_key = 'key-of-the-configuration'")->{err}, '', 'ALTER SYSTEM takes a key');
	$known_keys{'key-of-the-configuration'} = 1;
	reload();
	is(key_of('one'), 'key-of-the-configuration', 'which signs');
	ask($admin, 'ALTER SYSTEM RESET tegro.api_key');
	reload();

	ask($admin, 'REVOKE SET ON PARAMETER tegro.api_key, tegro.secret_key FROM one, two');
	ask($admin, 'ALTER ROLE one NOCREATEROLE');
	$shop->close;
	ask($admin, 'DROP DATABASE shop WITH (FORCE)');
};

subtest 'keys that were stored while the library was not loaded' => sub {
	my $stored = 'key-that-is-stored';

	put(SHOP_ID . ":one:key-of-one:s\n" . SHOP_ID . ':*:' . API_KEY . ":s\n");
	$known_keys{$_} = 1 foreach $stored, API_KEY;
	$admin->close;
	$node->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
	$node->restart;
	ask('postgres', $_) foreach (
		"ALTER ROLE one SET tegro.api_key = '$stored'",
		'CREATE DATABASE old',
		"ALTER ROLE one IN DATABASE old SET tegro.secret_key = '$stored'",
		"ALTER DATABASE old SET tegro.api_key = '$stored'",
		"ALTER DATABASE postgres SET tegro.api_key = '$stored'",
		"ALTER ROLE ALL SET tegro.secret_key = '$stored'",
		"CREATE FUNCTION with_key() RETURNS text LANGUAGE sql SET tegro.api_key = '$stored' AS 'SELECT current_user'");
	my ($dump, $err) = ('', '');
	IPC::Run::run([ 'pg_dumpall', '-h', $node->host, '-p', $node->port ], '<', \undef, '>', \$dump, '2>', \$err)
	  or diag($err);
	# but for two that pg_dumpall leaves out: of ROLE ALL, and of this database
	is(scalar(() = $dump =~ /\Q$stored\E/g), 4, 'they are in a dump');
	$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'tegro'});
	$node->restart;
	$admin = session($node);

	my $log_in = sub {
		my ($out, $err);

		$node->psql('postgres', 'SELECT current_user', stdout => \$out, stderr => \$err, extra_params => [ '-U', 'one' ]);
		return ($out, $err);
	};
	my ($out, $warnings) = $log_in->();
	is($out, 'one', 'their role can log in');
	like($warnings, qr/^WARNING:  stored value of parameter "tegro\.api_key" is ignored$/m, '... with a warning');
	unlike($warnings, qr/\Q$stored\E/, '... without the value');
	is(key_of('one'), 'key-of-one', 'fault 96: the file\'s key signs, not the stored one');
	is(ask('one', 'SELECT with_key()')->{sqlstate}, '42501', "a function's key is not taken from a role that may not set it");

	# what the worker sends, which starts with the settings of the database
	$sandbox->begin;
	my $id = ask($admin, q{SELECT tegro_enqueue('createOrder', '{"order_id": "of the file", "currency": "RUB", "amount": 1}')})->{out};
	ok(wait_until(sub { ask($admin, "SELECT state FROM tegro_outbox WHERE id = $id")->{out} eq 'accepted' }),
		'fault 97: an order is delivered');
	my ($sent) = $sandbox->journal(method => 'createOrder');
	is(key_by($sent->{authorization} =~ /(\w+)$/, $sent->{body}), API_KEY, "fault 97: ... with the file's key");

	# the doctor tells them, and how to get rid of them
	my $found = q{SELECT detail, substring(hint FROM '^ALTER .*?;') AS command FROM tegro_doctor() WHERE "check" = 'keys in catalogs' AND status = 'error'};
	is(ask($admin, "SELECT count(*) FROM ($found) AS f WHERE position('$stored' IN detail) = 0")->{out}, '6', 'the doctor finds all');
	is(ask($admin, "SELECT command FROM ($found) AS f \\gexec")->{err}, '', 'its commands');
	is(stored_keys(), '', '... take them out');
	is(join('|', $log_in->()), 'one|', 'and no warning is left');
	ask($admin, $_) foreach 'DROP FUNCTION with_key()', 'DROP DATABASE old';

	# a dump from that time
	my @errors;
	$err = '';
	IPC::Run::run([ 'psql', '-X', '-q', '-h', $node->host, '-p', $node->port, '-d', 'postgres' ],
		'<', \$dump, '>', \$out, '2>', \$err);
	@errors = grep { !/already exists/ } $err =~ /ERROR:  (.*)/g;
	is(scalar(grep { /^parameter "tegro\.(?:api|secret)_key" cannot be stored/ } @errors), 4, 'each of them is an error when it is restored');
	is(join("\n", grep { !/cannot be stored|multiple primary keys|duplicate key/ } @errors),
		'function public.with_key() does not exist', 'and nothing else is, but what needs it');
	is(stored_keys(), '', 'and nothing is stored');
};

$admin->close;
$node->stop;
done_testing();

__DATA__
/*
 * owner.c
 *		Files whose name ends in ".foreign" belong to another user, by
 *		LD_PRELOAD; as far as fstat() tells.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef int (*fstat_type) (int, struct stat *);

int
fstat(int fd, struct stat *st)
{
	static fstat_type real = NULL;
	static const char suffix[] = ".foreign";
	char		link[64];
	char		name[4096];
	ssize_t		len;
	int			status;

	if (real == NULL)
		real = (fstat_type) dlsym(RTLD_NEXT, "fstat");
	status = real(fd, st);
	if (status != 0)
		return status;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, name, sizeof(name));
	if (len >= (ssize_t) sizeof(suffix) &&
		memcmp(name + len - (sizeof(suffix) - 1), suffix, sizeof(suffix) - 1) == 0)
		st->st_uid++;
	return 0;
}
