// Runs a program and ends as it does.
//
// A process of Wine's that takes more than half a second to be gone is killed by Wine's server, which knows how it ended;
// whoever waits for it on Linux then sees the kill alone. This one has nothing to clear away, so its end is always seen.
#include <stdio.h>
#include <windows.h>

int main(void) {
    const wchar_t *line = GetCommandLineW();
    // The first word is this program.
    for (int quoted = 0; *line && (quoted || *line != L' '); line++) {
        quoted ^= *line == L'"';
    }
    while (*line == L' ') {
        line++;
    }

    // What is left of it goes when this program is killed.
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits = {0};
    limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
    HANDLE job = CreateJobObjectW(NULL, NULL);
    SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof limits);

    STARTUPINFOW startup;
    GetStartupInfoW(&startup);
    PROCESS_INFORMATION program;
    if (!CreateProcessW(NULL, (wchar_t *)line, NULL, NULL, TRUE, CREATE_SUSPENDED, NULL, NULL, &startup, &program)) {
        fprintf(stderr, "not started: error %lu\n", GetLastError());
        return 127;
    }
    AssignProcessToJobObject(job, program.hProcess);
    ResumeThread(program.hThread);
    WaitForSingleObject(program.hProcess, INFINITE);
    DWORD code = 1;
    GetExitCodeProcess(program.hProcess, &code);
    return (int)code;
}
