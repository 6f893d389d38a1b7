#!/bin/sh
# Run once, when the volume of the database is new: the role that the servers use, which is no superuser, so that the
# walls between tenants hold for it; and its database, with the extension that only a superuser may make.
set -eu
password=$(cat /run/secrets/simonides_password)
psql --username postgres --set=ON_ERROR_STOP=1 --set=password="$password" <<'SQL'
CREATE ROLE simonides LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD :'password';
CREATE DATABASE simonides OWNER simonides TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8';
\connect simonides
CREATE EXTENSION vector;
SQL
