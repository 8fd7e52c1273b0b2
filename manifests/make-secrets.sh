#!/bin/sh
# Make the files that an overlay's secrets are read from: `manifests/make-secrets.sh kind`. What is there is let be.
# Keys and passwords of the cluster's own are drawn at random; those that others give are left empty, to be filled in:
# the judge's key, and for `production` the key of the object store and the place of backups.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
overlay=${1:?give an overlay: kind, microk8s or production}
to="$here/overlays/$overlay/secrets"
[ -d "$here/overlays/$overlay" ] || { echo "There is no overlay $overlay." >&2; exit 2; }
umask 077
mkdir -p "$to"

random() { openssl rand -hex 24; }

# fill FILE NAME VALUE: the value of a line NAME=, where the file was not there before.
fill() { sed -i "s|^$2=\$|$2=$3|" "$to/$1.part"; }

# known FILE PATTERN: what a file that is there holds, for another that has to hold the same.
known() { [ ! -e "$to/$1" ] || sed -n "s|$2|\\1|p" "$to/$1"; }

key=$(known api-keys.env '^MISTUDIO_API_KEYS=admin:\([^,]*\).*')
key=${key:-$(known gateway-keys.env '^admin=\(.*\)')}
key=${key:-$(random)}
store=$(known s3.env '^AWS_SECRET_ACCESS_KEY=\(.*\)')
store=${store:-$(known backup.env '^AWS_SECRET_ACCESS_KEY=\(.*\)')}
store=${store:-$(random)}
for example in "$here"/secrets.example/*.env; do
  file=$(basename "$example")
  if [ -e "$to/$file" ]; then
    echo "$to/$file is there"
    continue
  fi
  cp "$example" "$to/$file.part"
  case $file in
    api-keys.env) fill "$file" MISTUDIO_API_KEYS "admin:$key" ;;
    gateway-keys.env) fill "$file" admin "$key" ;;
    database.env) fill "$file" POSTGRES_PASSWORD "$(random)" ;;
    signing.env) fill "$file" MISTUDIO_SIGNING_KEY "$(random)" ;;
    s3.env | backup.env) [ "$overlay" = production ] || fill "$file" AWS_SECRET_ACCESS_KEY "$store" ;;
  esac
  mv "$to/$file.part" "$to/$file"
  echo "$to/$file is made"
done
