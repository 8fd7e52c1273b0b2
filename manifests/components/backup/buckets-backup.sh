#!/bin/sh
# Copy the buckets to the place of backups. What was changed or removed since the last time is kept by date.
# Settings: BUCKETS (names with spaces between), BACKUP_BUCKET; the two stores as rclone's `store` and `backup`
# (RCLONE_CONFIG_STORE_..., RCLONE_CONFIG_BACKUP_...).
set -eu
today=$(date -u +%Y-%m-%dT%H%M%SZ)
for bucket in $BUCKETS; do
  rclone sync "store:$bucket" "backup:$BACKUP_BUCKET/current/$bucket" \
    --backup-dir "backup:$BACKUP_BUCKET/replaced/$today/$bucket" \
    --checksum --fast-list --transfers 8 --retries 5 --stats 1m --stats-one-line
  echo "$bucket is copied to $BACKUP_BUCKET/current/$bucket"
done
