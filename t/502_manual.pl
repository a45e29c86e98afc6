#!/usr/bin/env perl

# 502_manual.pl: docs/reference.md against the catalog; links of all pages.
#
# Every function, with its arguments and result, every setting, with its
# default and who may set it, every SQLSTATE that the code raises, every table
# and view with its columns, and the foreign-data wrapper is described; and
# nothing is described that is not there.  So who adds or changes one is told to
# write it down.
#
# What is described elsewhere in docs/ counts where the reference leads there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

use TegroTest;

my $root = "$FindBin::RealBin/..";

sub slurp
{
	my ($path) = @_;

	open(my $file, '<', $path) or die "could not open $path: $!";
	local $/ = undef;
	return scalar <$file>;
}

my $reference = slurp("$root/docs/reference.md");
# what it links to counts for columns and codes
my %linked = map { $_ => 1 } $reference =~ /\]\(([\w-]+\.md)/g;
my $manual = join("\n", $reference, map { slurp("$root/docs/$_") } sort keys %linked);

my $node = cluster('reference', undef);
my $session = session($node);

# Rows of one column.
sub rows
{
	my ($sql) = @_;
	my $result = $session->query($sql);

	die "$sql: $result->{err}" if $result->{err};
	return split(/\n/, $result->{out});
}

# Those of a list that are not in the other.
sub without
{
	my ($list, $other) = @_;
	my %other = map { $_ => 1 } @{$other};
	my %seen;

	return join("\n", sort grep { !$other{$_} && !$seen{$_}++ } @{$list});
}

sub members
{
	my ($class) = @_;

	return "JOIN pg_depend d ON d.classid = '$class'::regclass AND d.objid = o.oid AND d.deptype = 'e'"
	  . q{ AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tegro')};
}

# --- Functions -----------------------------------------------------------------------

# The blocks of code of a page that have no language, or the given one.
sub blocks
{
	my ($page, $language) = @_;
	my @blocks = $page =~ /^```([^\n]*)\n(.*?)^```$/gms;
	my @found;

	while (my ($its, $text) = splice(@blocks, 0, 2))
	{
		push @found, $text if $its eq ($language // '');
	}
	return @found;
}

# "name(arg type, …) → type", in one spelling; defaults are for the reader, and
# what is returned in columns is told in the text.
sub spelling
{
	my ($signature) = @_;

	for ($signature)
	{
		s/^CALL //;
		s/"(\w+)"/$1/g;
		s/timestamp with time zone/timestamptz/g;
		s/\binteger\b/int/g;
		s/ DEFAULT [^,()]*(\((?:[^()]|\([^()]*\))*\)[^,()]*)?//g;
		s/(, )?\bOUT \w+ [^,)]+//g;
		s/\bIN //g;
		s/ → (SETOF record|setof \(.*\)|TABLE\(.*\)|record)$/ → columns/;
		s/ +/ /g;
	}
	return $signature;
}

my $functions = 'FROM pg_proc o ' . members('pg_proc');
# those that nobody calls by themselves aside
my @in_catalog = map { spelling($_) } rows(<<"END");
SELECT format('%s(%s)%s', proname, pg_get_function_arguments(o.oid),
			  CASE WHEN prokind = 'f' THEN ' → ' || pg_get_function_result(o.oid) ELSE '' END)
  $functions WHERE prorettype <> ALL ('{trigger,fdw_handler}'::regtype[]) AND proname !~ '_validator\$'
END
my $signature = qr/(?:CALL )?tegro_\w+\([^`]*\)(?: → [^`]*)?/;
# in blocks of code, or in a table
my @described = map { spelling($_) } (
	(grep { /^$signature$/ } map { split(/\n/) } blocks($reference)),
	(grep { / → / } map { /`($signature)`/g } grep { /^\|/ } split(/\n/, $reference)));
is(without(\@in_catalog, \@described), '', 'every function is described, as it is');
is(without(\@described, \@in_catalog), '', 'no function is described that is not there, or is otherwise');

my @names = rows("SELECT DISTINCT proname $functions WHERE proname !~ '_(handler|validator)\$'");
my @headings = map { /\btegro_\w+/g } $reference =~ /^### (.*)$/gm;
is(without(\@names, [ @headings, map { /^(tegro_\w+)/ } @described ]), '', 'every function has a heading, or a row');

# --- Tables, views, columns ------------------------------------------------------------

my $relations = 'FROM pg_class o ' . members('pg_class');
my @relations = rows("SELECT relname $relations WHERE relkind IN ('r', 'v')");
my %told = map { $_ => 1 } $reference =~ /`(tegro_\w+)`/g;
is(without(\@relations, [ keys %told ]), '', 'every table and view is described');

# a column is described where its table is
my @sections = split(/^#+ /m, $manual);
my (@columns, @missing);
foreach my $pair (rows("SELECT relname || ' ' || attname $relations JOIN pg_attribute ON attrelid = o.oid"
		. " WHERE relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped"))
{
	my ($table, $column) = split(/ /, $pair);

	push @columns, $column;
	push @missing, "$table.$column" unless grep { /`$table`/ && /`$column`/ } @sections;
}
is(join("\n", @missing), '', 'every column is described');

# those of tables that list columns, in the sections of the outbox's tables
my @listed;
foreach my $section (@sections)
{
	next unless $section =~ /^`tegro_\w+`, .*row/m;
	push @listed, map { /`(\w+)`/g } map { (split(/\|/))[1] // '' }
	  map { split(/\n/) } $section =~ /^\| column \|.*\n\|---.*\n((?:\|.*\n)+)/gm;
}
cmp_ok(scalar(@listed), '>', 20, 'columns are listed');
is(without(\@listed, \@columns), '', 'no column is described that is not there');

# --- Whatever else has our name ---------------------------------------------------------

my @others = rows(
	"SELECT fdwname FROM pg_foreign_data_wrapper o " . members('pg_foreign_data_wrapper')
	  . " UNION ALL SELECT typname FROM pg_type o " . members('pg_type')
	  . " WHERE typtype <> 'c' AND typelem = 0");
is(without(\@others, [ keys %told ]), '', 'wrappers and types are described');
my @there = (@names, @relations, @others, rows("SELECT relname $relations"),
	rows("SELECT proname $functions"),
	# a server that examples make
	qw(tegro_shop));
is(without([ map { /\b(tegro_\w+)/g } $reference ], \@there), '', 'nothing else is named');

# --- Settings -----------------------------------------------------------------------------

# By the code, since those that are secret are not in pg_settings.
my %settings = map { $_ => 1 } map { slurp("$root/src/$_") =~ /DefineCustom\w+Variable\("(tegro\.\w+)"/g }
  'base/settings.c', 'client/keys.c';
cmp_ok(scalar(keys %settings), '>', 20, 'there are settings');
# those in the catalog are all from there
is(without([ rows(q{SELECT name FROM pg_settings WHERE name ~ '^tegro\.'}) ], [ keys %settings ]), '', 'each setting is among them');
my ($section) = $reference =~ /^## Settings\n(.*?)^## /ms;
my %rows = map { /^\| `(tegro\.\w+)` \|\s*(.*?)\s*\|[^|]*\|\s*([\w ]+?)\s*\| \S/ ? ($1 => [ $2, $3 ]) : () }
  split(/\n/, $section =~ s/\\\|/¦/gr);
is(without([ keys %settings ], [ keys %rows ]), '', 'every setting is described');
is(without([ keys %rows ], [ keys %settings ]), '', 'no setting is described that is not there');
is(without([ $manual =~ /`(tegro\.[a-z_]+)(?: = [^`]*)?`/g ], [ keys %settings ]),
	'', 'no other is named in the manual');

# its default and who may set it
my %who = (user => 'everyone', sighup => 'configuration file');
foreach my $row (rows(q{SELECT concat_ws('|', name, context, source, replace(current_setting(name), '|', '¦'))
					   FROM pg_settings WHERE name ~ '^tegro\.' ORDER BY name}))
{
	my ($name, $context, $source, $value) = split(/\|/, $row, 4);
	my ($default, $who) = @{ $rows{$name} // next };

	is($who, $who{$context}, "$name: who may set it");
	next if $source ne 'default';
	my ($said) = $default =~ /^(empty|`.*?`)/;
	is($said, $value eq '' ? 'empty' : "`$value`", "$name: its default");
}

# --- Errors -------------------------------------------------------------------------------

my @codes = slurp("$root/src/base/error.h") =~ /MAKE_SQLSTATE\(([^)]*)\)/g;
@codes = map { join('', /\w/g) } map { s/'//gr } @codes;
cmp_ok(scalar(@codes), '>=', 7, 'there are SQLSTATEs of our own');
my @sections_of_codes = $reference =~ /^### (TG\d\d\d) /gm;
is(without(\@codes, \@sections_of_codes), '', 'each has a section');
is(without(\@sections_of_codes, \@codes), '', 'and no other');
is(without([ $manual =~ /\b(TG\d\d\d)\b/g ], \@codes), '', 'no other is named in the manual');

# and PostgreSQL's, by the names that the code raises them with
my ($out, $err) = ('', '');
IPC::Run::run([ 'pg_config', '--sharedir' ], '>', \$out, '2>', \$err) or BAIL_OUT("pg_config failed: $err");
chomp($out);
my %code = map { /^(\w{5})\s+[EWS]\s+ERRCODE_(\w+)/ ? ($2 => $1) : () } split(/\n/, slurp("$out/errcodes.txt"));
cmp_ok(scalar(keys %code), '>', 200, 'PostgreSQL has SQLSTATEs');
my %raised;
foreach my $path (glob("$root/src/*/*.c $root/src/*/*/*.c"))
{
	$raised{$_} = 1 foreach grep { $code{$_} } slurp($path) =~ /\berrcode\(ERRCODE_(\w+)\)/g;
}
my %said = map { $_ => 1 } map { /`([0-9A-Z]{5})`/g } map { (split(/\|/))[1] } $reference =~ /^\| `[0-9A-Z]{5}`.*$/gm;
is(join("\n", map { "$code{$_} $_" } sort grep { !$said{ $code{$_} } } keys %raised), '', 'every SQLSTATE is described');
is(without([ keys %said ], [ values %code, @codes ]), '', 'none is described that is none');

# --- Links ----------------------------------------------------------------------------------

# The name that GitHub gives to a heading.
sub anchor
{
	my ($heading) = @_;

	utf8::decode($heading);
	for ($heading)
	{
		s/\[([^\]]*)\]\([^)]*\)/$1/g;
		$_ = lc;
		s/[^\w\- ]//g;
		s/ /-/g;
	}
	utf8::encode($heading);
	return $heading;
}

my (%anchors, @broken);
my @pages = map { s{^\Q$root\E/}{}r } glob("$root/*.md $root/docs/*.md");
foreach my $page (@pages)
{
	my $text = slurp("$root/$page") =~ s/^```.*?^```$//gmsr;

	$anchors{$page} = { map { anchor($_) => 1 } $text =~ /^#+ (.*)$/gm };
}
foreach my $page (@pages)
{
	my ($directory) = $page =~ m{^(.*/)?[^/]*$};
	my $text = slurp("$root/$page") =~ s/^```.*?^```$//gmsr =~ s/`[^`\n]*`//gr;

	foreach my $link ($text =~ /\]\(([^)\s]+)\)/g, $text =~ /(?:src|srcset)="([^"]+)"/g)
	{
		next if $link =~ /^https?:/;
		my ($path, $anchor) = $link =~ /^([^#]*)#?(.*)$/;
		my $file = $path eq '' ? $page : ($directory // '') . $path;

		1 while $file =~ s{[^/]+/\.\./}{};
		push @broken, "$page: $link"
		  unless -e "$root/$file" && ($anchor eq '' || $anchors{$file}{$anchor});
	}
}
is(join("\n", @broken), '', 'every link leads somewhere');

# --- The README in Russian ----------------------------------------------------------------

# Its SQL, and what comes of it, is that of the other.
my ($english, $russian) = map { slurp("$root/$_") } 'README.md', 'README.ru.md';
foreach my $language ('sql', 'sh')
{
	my ($ours, $theirs) = map { [ map { s/ *# .*//gmr } blocks($_, $language) ] } $english, $russian;

	is_deeply($theirs, $ours, "README.ru.md has the same $language");
}
my @said = grep { !/^#/ } blocks($english);
my %there_too = map { $_ => 1 } blocks($russian);
is(join("\n", grep { !$there_too{$_} } @said), '', 'and the same of what it prints');
# and is about the same things
my ($names, $their_names) = map { [ sort { $a cmp $b } keys %{ { map { $_ => 1 } /`(\w[\w.]*)[`(]/g } } ] } $english, $russian;
is(without($names, $their_names), '', 'all that the one names is in the other');
is(scalar(() = $russian =~ /^#+ /gm), scalar(() = $english =~ /^#+ /gm), 'it has as many sections');

# --- Pictures -------------------------------------------------------------------------------

($out, $err) = ('', '');
IPC::Run::run([ "$root/bench/draw", "$root/docs/benchmarks" ], '>', \$out, '2>', \$err)
  or BAIL_OUT("bench/draw failed: $err");
ok($out eq slurp("$root/docs/images/benchmarks.svg"),
	'the picture of the benchmarks is that of what is kept: script/bench --draw');

done_testing();
