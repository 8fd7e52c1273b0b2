#!/bin/sh
# Copy the buckets back. Nothing is removed, and what is there under the same name is not written over unless it differs.
# Artifacts prove themselves: run `mistudio artifacts verify` afterwards.
set -eu
for bucket in $BUCKETS; do
  rclone mkdir "store:$bucket"
  rclone copy "backup:$BACKUP_BUCKET/current/$bucket" "store:$bucket" \
    --checksum --fast-list --transfers 8 --retries 5 --stats 1m --stats-one-line
  rclone check "backup:$BACKUP_BUCKET/current/$bucket" "store:$bucket" --one-way --fast-list
  echo "$bucket is restored"
done
