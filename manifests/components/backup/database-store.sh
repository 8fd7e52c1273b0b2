#!/bin/sh
# Put the dump to the place of backups, under the time of today.
set -eu
name="database-$(date -u +%Y-%m-%dT%H%M%SZ).dump"
rclone copyto "${DUMP_FOLDER:-/dump}/database.dump" "backup:$BACKUP_BUCKET/databases/$name" --checksum --retries 5
echo "the database is copied to $BACKUP_BUCKET/databases/$name"
