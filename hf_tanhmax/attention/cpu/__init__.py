"""TanhMax attention on the CPU: in blocks by torch's operators, or by one compiled C++ operator."""
