#!/bin/sh
# Drop what is older than KEEP (rclone's durations, such as 30d): replaced and removed objects, and dumps but the newest.
set -eu
rclone delete "backup:$BACKUP_BUCKET/replaced" --min-age "$KEEP" --fast-list
newest=$(rclone lsf "backup:$BACKUP_BUCKET/databases" --files-only --include 'database-*.dump' | sort | tail -n 1)
if [ -n "$newest" ]; then
  rclone delete "backup:$BACKUP_BUCKET/databases" --min-age "$KEEP" --exclude "$newest"
fi
echo "what is older than $KEEP is dropped"
