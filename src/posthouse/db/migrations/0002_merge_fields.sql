-- Rows of one address in an imported file become one: the later row wins for every field that it has.
create aggregate merge_fields(jsonb) (sfunc = jsonb_concat, stype = jsonb, initcond = '{}');
