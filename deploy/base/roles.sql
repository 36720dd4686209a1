-- Runs once, when Postgres initialises its data directory. The migrating user owns the database; each
-- migration grants the others their rights, listed in voting/database/rights.py.
\getenv migrate_password MIGRATE_PASSWORD
\getenv worker_password WORKER_PASSWORD
\getenv result_password RESULT_PASSWORD
\getenv admin_password ADMIN_PASSWORD
CREATE ROLE voting LOGIN PASSWORD :'migrate_password';
CREATE ROLE voting_worker LOGIN PASSWORD :'worker_password';
CREATE ROLE voting_result LOGIN PASSWORD :'result_password';
CREATE ROLE voting_admin LOGIN PASSWORD :'admin_password';
ALTER DATABASE voting OWNER TO voting;
-- No other user may connect.
REVOKE ALL ON DATABASE voting FROM PUBLIC;
GRANT CONNECT ON DATABASE voting TO voting_worker, voting_result, voting_admin;
