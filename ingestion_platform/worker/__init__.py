"""The worker: land, load and deliver streams in a loop, seconds behind their logs, until stopped.

`pace` decides when to work, `tasks` what to do, `loop` runs tasks on threads and survives outages,
`processes` starts and stops the processes. The work itself is `pipeline`'s and `sinks`'.
"""
