# tegro: builds, installs and tests the extension with PGXS.
#
#   make                 build tegro.so
#   make install         install into the server that PG_CONFIG names
#   make installcheck    run the regression tests against a running server that
#                        has a sandbox for its provider: script/server make installcheck
#   make sandbox         build the stand-in provider
#   make dist            pack what is committed for PGXN: tegro-X.Y.Z.zip, .tar.gz
#
# PG_CONFIG chooses the PostgreSQL version:  make PG_CONFIG=/path/to/pg_config

EXTENSION = tegro
MODULE_big = tegro
DATA = tegro--1.0.sql
PGFILEDESC = "tegro - Tegro.money payments from inside PostgreSQL"

OBJS = $(patsubst %.c,%.o,tegro.c $(sort $(wildcard src/*/*.c src/*/*/*.c)))

REGRESS = install calls errors rights batch outbox payout explain trigger fdw link notification stat doctor report retention
ISOLATION = enqueue claim cancel retry resolve correct refresh

PG_CONFIG ?= pg_config
PKG_CONFIG ?= pkg-config

# Say what is missing in words, before the compiler says it in its own.
# "clean" and the like need none of it.
ifeq ($(filter clean distclean dist,$(MAKECMDGOALS)),)
ifeq ($(shell command -v $(PG_CONFIG) 2>/dev/null),)
$(error $(PG_CONFIG) was not found: install the PostgreSQL server headers (Debian: postgresql-server-dev-all) or pass PG_CONFIG=/path/to/pg_config)
endif
ifeq ($(wildcard $(shell $(PG_CONFIG) --includedir-server)/postgres.h),)
$(error the PostgreSQL server headers are missing: install postgresql-server-dev-NN (Debian) or postgresqlNN-devel (Red Hat))
endif
ifneq ($(shell $(PKG_CONFIG) --exists 'libcurl >= 7.88' 2>/dev/null && echo yes),yes)
$(error libcurl 7.88 or later is missing: install libcurl4-openssl-dev (Debian) or libcurl-devel (Red Hat), and pkg-config)
endif
ifneq ($(shell $(PKG_CONFIG) --exists 'libcrypto >= 3' 2>/dev/null && echo yes),yes)
$(error OpenSSL 3 is missing: install libssl-dev (Debian) or openssl-devel (Red Hat), and pkg-config)
endif
endif

PG_CPPFLAGS = -I$(CURDIR) $(shell $(PKG_CONFIG) --cflags libcurl libcrypto 2>/dev/null)
SHLIB_LINK = $(shell $(PKG_CONFIG) --libs libcurl libcrypto 2>/dev/null)

# -Wno-unused-parameter and -Wno-sign-compare: PostgreSQL's own headers and
# callbacks are full of both.
PG_CFLAGS = -std=gnu11 -Wall -Wextra -Wshadow -Wno-unused-parameter \
	-Wno-sign-compare -Wno-missing-field-initializers

# For tests of crashes: places at which a process can be made to die.
ifdef KILL_POINTS
PG_CFLAGS += -DTEGRO_INJECTION_POINTS
endif

EXTRA_CLEAN = $(BUILT_FOR) results regression.diffs regression.out

ifeq ($(wildcard src/base/*.c),)
$(error run make in the folder of this Makefile)
endif

# What was built for another PostgreSQL is built anew: a library of another major
# release keeps a server that preloads it from starting.
BUILT_FOR = .built-for
ifeq ($(filter clean distclean dist,$(MAKECMDGOALS)),)
$(shell exec 2>/dev/null; $(PG_CONFIG) --version --includedir-server >$(BUILT_FOR).new; \
	cmp -s $(BUILT_FOR).new $(BUILT_FOR) && rm -f $(BUILT_FOR).new || \
	mv -f $(BUILT_FOR).new $(BUILT_FOR))
endif

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# The tests run only against a server that is made for them.
pg_regress_installcheck := $(patsubst %/pg_regress,script/installcheck %/pg_regress,$(pg_regress_installcheck))
pg_isolation_regress_installcheck := $(patsubst %/pg_isolation_regress,script/installcheck %/pg_isolation_regress,$(pg_isolation_regress_installcheck))

$(OBJS) $(OBJS:.o=.bc): $(BUILT_FOR)
$(OBJS): $(wildcard src/*/*.h src/*/*/*.h)

.PHONY: sandbox
sandbox:
	$(MAKE) -C sandbox

# PGXN wants the version in full, and all in a folder that is named for it.
DISTRIBUTION = $(EXTENSION)-$(shell sed -n 's/^   "version": "\(.*\)",$$/\1/p' META.json)

.PHONY: dist
dist:
	git archive --format=zip --prefix=$(DISTRIBUTION)/ -o $(DISTRIBUTION).zip HEAD
	git archive --format=tar.gz --prefix=$(DISTRIBUTION)/ -o $(DISTRIBUTION).tar.gz HEAD
