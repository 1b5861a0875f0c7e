-- name: fold_position
-- The last journal entry that this state holds, of each line.
select partition as line, position from fold;

-- name: move_fold!
-- In the transaction of what the entries caused; changes nothing where somebody else was here.
update fold set position = :position where partition = :line and position = :before
  and (cast(:epoch as bigint) is null or epoch = cast(:epoch as bigint));
