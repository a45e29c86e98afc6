/*-------------------------------------------------------------------------
 *
 * page.c
 *		A page of HTML: its frame, its texts, its charts.
 *
 * The page is one file that needs nothing else: no script, no font, no image
 * from elsewhere.  A policy in its head (Content-Security-Policy) has the
 * browser refuse all of these, should one get in after all.
 *
 * It is ASCII, with all other characters as references (&#x427;), so that it
 * reads the same whatever the encodings of server, client and file are.
 *
 * Charts are SVG that is stretched to the width there is; their labels are
 * HTML beside it, for letters would be stretched too.  Colours are those that
 * people who don't see red or green can tell apart, on white and on black;
 * none stands without its name.
 *
 * Its tags are closed as XML wants it, though HTML does not: so a test can have
 * it parsed strictly, and what breaks out of its place is found.
 *
 * Hazard: whatever a shop, a customer or the provider wrote goes through
 * tegro_page_text() and through nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "mb/pg_wchar.h"

#include "src/report/page.h"

/* Height of a chart in the units that its SVG counts in; its width is 1000. */
#define CHART_HEIGHT 100.0
#define CHART_WIDTH	 1000.0

/* Letters of the classes that give a series its colour. */
static const char series_class[TEGRO_PAGE_SERIES] = {'a', 'b', 'c'};

static const char page_style[] =
	":root{color-scheme:light dark;--ground:#f6f7f9;--card:#fff;--ink:#1c2530;"
	"--soft:#586474;--line:#dde2e8;--a:#0072b2;--b:#d55e00;--c:#4b5563;"
	"--bad:#b34700;--code:#f1f4f7}\n"
	"@media(prefers-color-scheme:dark){:root{--ground:#11161d;--card:#1a212b;"
	"--ink:#e4e9ef;--soft:#9aa7b6;--line:#2e3947;--a:#56b4e9;--b:#f0a030;"
	"--c:#c3ccd6;--bad:#f0a030;--code:#11161d}}\n"
	"*{box-sizing:border-box}\n"
	"body{margin:0;background:var(--ground);color:var(--ink);"
	"font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;"
	"overflow-wrap:anywhere}\n"
	"main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 3rem}\n"
	"h1{font-size:1.5rem;line-height:1.2;margin:0 0 .3rem}\n"
	"h2{font-size:1.1rem;line-height:1.3;margin:0 0 .2rem}\n"
	"h3{font-size:1rem;margin:0}\n"
	"p{margin:.2rem 0 .7rem}\n"
	".soft,figcaption p{color:var(--soft)}\n"
	"section,figure{background:var(--card);border:1px solid var(--line);"
	"border-radius:8px;padding:1rem 1.1rem;margin:1rem 0}\n"
	".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(6.6rem,1fr));"
	"gap:.7rem;margin:1.2rem 0 0;padding:0;list-style:none}\n"
	".tiles li{background:var(--card);border:1px solid var(--line);border-radius:8px;"
	"padding:.6rem .9rem}\n"
	".tiles b{display:block;font-size:1.5rem;line-height:1.3;font-weight:600;"
	"font-variant-numeric:tabular-nums}\n"
	".tiles .soft{font-size:.85rem;display:block}\n"
	".alert{border-left:4px solid var(--b)!important}\n"
	"article{border-top:1px solid var(--line);padding-top:.8rem;margin-top:.8rem}\n"
	"dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .9rem;margin:.4rem 0}\n"
	"dt{color:var(--soft)}dd{margin:0}\n"
	"pre{background:var(--code);border:1px solid var(--line);border-radius:6px;"
	"padding:.6rem .8rem;margin:.5rem 0;font:13px/1.5 ui-monospace,'DejaVu Sans Mono',monospace;"
	"white-space:pre-wrap}\n"
	"pre .soft{font-style:normal}\n"
	"table{border-collapse:collapse;width:100%;margin-top:.4rem}\n"
	"th,td{text-align:left;vertical-align:top;padding:.35rem .8rem .35rem 0;"
	"border-top:1px solid var(--line)}\n"
	"th{color:var(--soft);font-weight:500;border-top:0}\n"
	"th{white-space:nowrap}td:first-child{min-width:6rem}\n"
	"td:last-child,th:last-child{padding-right:0}\n"
	".number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\n"
	".bad{color:var(--bad);font-weight:600}\n"
	"small{color:var(--soft);font-size:.9em;display:block}\n"
	".key{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;margin:.1rem 0 .9rem;padding:0;"
	"list-style:none;font-size:.9rem}\n"
	".key svg{width:.8rem;height:.8rem;margin-right:.4rem;vertical-align:-.08rem}\n"
	".plot{display:grid;grid-template-columns:2.4rem 1fr;gap:.4rem .6rem;"
	"font-size:.8rem;line-height:1rem;color:var(--soft);font-variant-numeric:tabular-nums}\n"
	".plot svg{width:100%;height:11rem;display:block;overflow:visible}\n"
	".up{display:flex;flex-direction:column;justify-content:space-between;"
	"text-align:right;margin:-.5rem 0}\n"
	".along{grid-column:2;display:flex;justify-content:space-between;white-space:nowrap}\n"
	".grid{stroke:var(--line);stroke-width:1;vector-effect:non-scaling-stroke}\n"
	".a{fill:var(--a)}.b{fill:var(--b)}.c{fill:var(--c)}\n"
	".bars{display:grid;grid-template-columns:max-content 1fr max-content;"
	"gap:.25rem .8rem;font-size:.9rem;font-variant-numeric:tabular-nums}\n"
	".bars svg{width:100%;height:.9rem;align-self:center}\n"
	".bars>:nth-child(3n+1),.bars>:nth-child(3n){text-align:right}\n"
	"@media(max-width:30rem){.along :nth-child(even){display:none}"
	"dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}}\n"
	"@media print{body{background:none}section,figure,article{break-inside:avoid}}\n";

void
tegro_page_begin(StringInfo page, const char *title)
{
	appendStringInfoString(page,
						   "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
						   "<meta http-equiv=\"Content-Security-Policy\""
						   " content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
						   "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
						   "<meta name=\"robots\" content=\"noindex\"/>\n<title>");
	tegro_page_text(page, title, 0);
	appendStringInfo(page,
					 "</title>\n<style>\n%s</style>\n</head>\n<body>\n<main>\n",
					 page_style);
}

void
tegro_page_end(StringInfo page)
{
	appendStringInfoString(page, "</main>\n</body>\n</html>\n");
}

/*
 * Characters that are not seen, or that turn the order of those around them:
 * a reader could be shown another text than the one that stands there.
 */
static bool
is_deceptive(pg_wchar c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0xad || c == 0x61c ||
		(c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
		(c >= 0x2060 && c <= 0x206f) || c == 0xfeff ||
		(c >= 0xe0000 && c <= 0xe0fff);
}

void
tegro_page_text(StringInfo page, const char *string, int limit)
{
	int len = (int) strlen(string);
	/* a role's name, or a database's, may be in another database's encoding */
	bool encoded = GetDatabaseEncoding() != PG_SQL_ASCII &&
		pg_verifymbstr(string, len, true);
	char *utf8 = encoded ? pg_server_to_any(string, len, PG_UTF8)
						 : unconstify(char *, string);
	const unsigned char *at = (const unsigned char *) utf8;

	for (int n = 0; *at; n++)
	{
		pg_wchar c = encoded ? utf8_to_unicode(at) : *at;

		if (limit > 0 && n == limit)
		{
			appendStringInfoString(page, "&#x2026;");
			break;
		}
		at += encoded ? pg_utf_mblen(at) : 1;
		if (c == '\n' || c == '\r' || c == '\t')
			appendStringInfoChar(page, ' ');
		else if (!encoded && c >= 0x80)
			appendStringInfo(page, "\\x%02x", c);
		else if (is_deceptive(c))
			appendStringInfo(page, "\\u%04x", c);
		/* a reference for all that HTML knows, in text or in an attribute */
		else if (c >= 0x80 || strchr("<>&\"'`=", (int) c))
			appendStringInfo(page, "&#x%x;", c);
		else
			appendStringInfoChar(page, (char) c);
	}
	if (utf8 != string)
		pfree(utf8);
}

/* The next higher of 1, 2, 4, 10, 20, 40...: half of it is a round number. */
static double
round_up(double value)
{
	static const double steps[] = {1, 2, 4, 10};
	double unit = pow(10, floor(log10(value)));

	for (int i = 0; i < (int) lengthof(steps); i++)
	{
		if (steps[i] * unit >= value * (1 - 1e-9))
			return steps[i] * unit;
	}
	return 10 * unit;
}

/* Never more than there are colours for. */
static int
series_of(const TegroPageChart *chart)
{
	return Min(chart->nseries, TEGRO_PAGE_SERIES);
}

static double
total_of(const TegroPageChart *chart, int bar)
{
	double total = 0;

	for (int i = 0; i < series_of(chart); i++)
		total += chart->values[i][bar];
	return total;
}

static void
append_names(StringInfo page, const TegroPageChart *chart)
{
	appendStringInfoString(page, "<ul class=\"key\">");
	for (int i = 0; i < series_of(chart); i++)
	{
		appendStringInfo(page,
						 "<li><svg aria-hidden=\"true\"><rect class=\"%c\""
						 " width=\"100%%\" height=\"100%%\" rx=\"2\"/></svg>",
						 series_class[i]);
		tegro_page_text(page, chart->names[i], 0);
		appendStringInfoString(page, "</li>");
	}
	appendStringInfoString(page, "</ul>\n");
}

/* A bar: its series one upon the other, and a tooltip that tells them. */
static void
append_bar(StringInfo page, const TegroPageChart *chart, int bar, double top)
{
	double width = CHART_WIDTH / chart->nbars;
	double below = 0;

	/* nothing to see is nothing to write: most bars of a quiet night */
	if (total_of(chart, bar) <= 0)
		return;
	appendStringInfoString(page, "<g><title>");
	tegro_page_text(page, chart->bar_names[bar], 0);
	for (int i = 0; i < series_of(chart); i++)
	{
		appendStringInfo(page, "%s %.4g ", i == 0 ? ":" : ",",
						 chart->values[i][bar]);
		tegro_page_text(page, chart->names[i], 0);
	}
	appendStringInfoString(page, "</title>");
	for (int i = 0; i < series_of(chart); i++)
	{
		double height = chart->values[i][bar] / top * CHART_HEIGHT;

		if (height <= 0)
			continue;
		below += height;
		appendStringInfo(page,
						 "<rect class=\"%c\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"/>",
						 series_class[i], bar * width, CHART_HEIGHT - below,
						 chart->gaps ? width * 0.8 : width, height);
	}
	appendStringInfoString(page, "</g>\n");
}

void
tegro_page_chart(StringInfo page, const TegroPageChart *chart)
{
	double top = chart->least_top;

	for (int i = 0; i < chart->nbars; i++)
		top = Max(top, total_of(chart, i));
	top = round_up(top);

	appendStringInfoString(page, "<figure>\n<figcaption><h2>");
	tegro_page_text(page, chart->title, 0);
	appendStringInfoString(page, "</h2><p>");
	tegro_page_text(page, chart->about, 0);
	appendStringInfoString(page, "</p></figcaption>\n");
	if (chart->nseries > 1)
		append_names(page, chart);
	appendStringInfo(page,
					 "<div class=\"plot\"><div class=\"up\" aria-hidden=\"true\">"
					 "<span>%.4g</span><span>%.4g</span><span>0</span></div>\n"
					 "<svg role=\"img\" viewBox=\"0 0 %.0f %.0f\" preserveAspectRatio=\"none\""
					 " aria-label=\"",
					 top, top / 2, CHART_WIDTH, CHART_HEIGHT);
	tegro_page_text(page, chart->about, 0);
	/* bars side by side show no seams; narrow ones apart are evenly wide */
	appendStringInfo(page, "\" shape-rendering=\"%s\">\n",
					 chart->gaps ? "auto" : "crispEdges");
	for (int i = 0; i <= 2; i++)
		appendStringInfo(page,
						 "<line class=\"grid\" x1=\"0\" x2=\"%.0f\" y1=\"%.0f\" y2=\"%.0f\"/>\n",
						 CHART_WIDTH, CHART_HEIGHT * i / 2,
						 CHART_HEIGHT * i / 2);
	for (int i = 0; i < chart->nbars; i++)
		append_bar(page, chart, i, top);
	appendStringInfoString(page,
						   "</svg>\n<div class=\"along\" aria-hidden=\"true\">");
	for (int i = 0; i < TEGRO_PAGE_TICKS; i++)
	{
		appendStringInfoString(page, "<span>");
		tegro_page_text(page, chart->ticks[i], 0);
		appendStringInfoString(page, "</span>");
	}
	appendStringInfoString(page, "</div></div>\n</figure>\n");
}

void
tegro_page_bar(StringInfo page, const char *label, double share,
			   const char *number)
{
	appendStringInfoString(page, "<span>");
	tegro_page_text(page, label, 0);
	appendStringInfo(page,
					 "</span><svg aria-hidden=\"true\"><rect class=\"a\" width=\"%.1f%%\""
					 " height=\"100%%\" rx=\"2\"/></svg><span>",
					 100 * share);
	tegro_page_text(page, number, 0);
	appendStringInfoString(page, "</span>\n");
}
