"""The two workspaces that every installation has."""

MAIN_WORKSPACE = 1
# A rehearsal never touches real suppression, engagement or reputation: all of those are kept by workspace.
REHEARSAL_WORKSPACE = 2
