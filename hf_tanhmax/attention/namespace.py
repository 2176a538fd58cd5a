"""What this code calls itself where names are global to a process: torch's operators, and Transformers' attention functions.

The file that is published with a checkpoint (`models.bundle`) has this code under another name, so that files of any versions and this
package get along in one process.
"""

NAMESPACE = "hf_tanhmax"
