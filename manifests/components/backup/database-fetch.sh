#!/bin/sh
# Fetch a dump: the one that DUMP names, or the newest.
set -eu
name=${DUMP:-$(rclone lsf "backup:$BACKUP_BUCKET/databases" --files-only --include 'database-*.dump' | sort | tail -n 1)}
if [ -z "$name" ]; then
  echo "There is no dump in $BACKUP_BUCKET/databases." >&2
  exit 1
fi
rclone copyto "backup:$BACKUP_BUCKET/databases/$name" "${DUMP_FOLDER:-/dump}/database.dump" --checksum --retries 5
echo "$name is fetched"
