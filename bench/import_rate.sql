-- name: contacts_as_copied
-- The rows that the import made, as COPY will take them.
select workspace_id, contact_id, email, fields, created_at, updated_at from contacts order by md5(email)

-- name: make_plain
-- A logged table with the columns and the unique indexes of contacts.
create table plain_contacts (like contacts including all);
