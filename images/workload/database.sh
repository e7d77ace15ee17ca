# Makes a cluster in the folder $1, and pgbench's tables in it. It runs inside the image's files.
export PATH=/usr/lib/postgresql/15/bin:/usr/bin TZ=UTC LC_ALL=C PGHOST=/tmp PGUSER=postgres
cd /tmp
initdb --pgdata="$1" --username=postgres --auth=trust --locale=C --encoding=UTF8 --wal-segsize=1 \
    --no-sync
# A guest's data are in its memory, and end with it: nothing is gained by writing them to a disk.
cat >>"$1/postgresql.conf" <<'CONF'
listen_addresses = '*'
unix_socket_directories = '/tmp'
dynamic_shared_memory_type = posix
shared_buffers = 24MB
max_connections = 40
min_wal_size = 2MB
max_wal_size = 32MB
full_page_writes = off
wal_init_zero = off
wal_recycle = off
fsync = off
# Work in the background would disturb some measurements and not others.
autovacuum = off
checkpoint_timeout = 1h
jit = off
timezone = UTC
log_timezone = UTC
CONF
echo 'host all all 0.0.0.0/0 trust' >>"$1/pg_hba.conf"
pg_ctl --pgdata="$1" --wait --log=/tmp/log start \
    --options="-c listen_addresses= -c dynamic_shared_memory_type=mmap"
trap 'pg_ctl --pgdata="$1" --mode=immediate stop' EXIT
pgbench --initialize --quiet --scale=1 postgres
pg_ctl --pgdata="$1" --wait --mode=fast stop
trap - EXIT
rm -f "$1/postmaster.opts"
