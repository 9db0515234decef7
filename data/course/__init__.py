"""The course: exercises that are cut out of the six scripts, and the program that hands them out, checks and grades.

    python -m data.course make DIR        an instructor makes a student's copy (INSTRUCTORS.md)
    python -m data.course                 in the copy: what there is to do, how far you are

exercises/      a file each: its text, points, hints, check and the mistakes that it knows (WRITING.md)
reference.py    the reference's sources: this repository's files; in a copy an archive
sources.py      source text, by ast: cutting functions out, taking a student's statements in
making.py       a student's copy
filling.py      what the copy's scripts call, so that they run while functions are missing
child.py        computes outputs with a student's functions, in a process of its own; judges nothing
running.py      starts that process, with a time limit
judging.py      compares outputs with what they should be, and names known mistakes
terminal.py     a student's commands
grading.py      an instructor's
"""
