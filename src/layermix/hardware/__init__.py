"""What makes a step fast on the machine at hand.

`precision` chooses the device and the number format; `cpu_kernels` has dropout, attention and
memory as they are fastest on a CPU.
"""
