"""The path of a message, one short file a step. Read this first.

    launch   a campaign's recipients become queue rows, chunk by chunk
    deliver  one sender: claim, compose, deliver, settle
    settle   outcomes become ledger lines, queue changes and suppressions, in one transaction
    listen   what comes back (bounces, complaints, opens, clicks, unsubscribes) becomes ledger lines and suppressions
    tell     readers of the ledger: counters, the end of a campaign

A flow has no `if` about mail: that `if` is a rule, and rules live in rooms.
"""
