-- Runs once, when Postgres makes its files. Who migrates owns the database; what the others may do is
-- said by voting/database/schema.py, and given by each migration.
\getenv migrate_password MIGRATE_PASSWORD
\getenv worker_password WORKER_PASSWORD
\getenv result_password RESULT_PASSWORD
CREATE ROLE voting LOGIN PASSWORD :'migrate_password';
CREATE ROLE voting_worker LOGIN PASSWORD :'worker_password';
CREATE ROLE voting_result LOGIN PASSWORD :'result_password';
ALTER DATABASE voting OWNER TO voting;
-- Nobody else comes in.
REVOKE ALL ON DATABASE voting FROM PUBLIC;
GRANT CONNECT ON DATABASE voting TO voting_worker, voting_result;
